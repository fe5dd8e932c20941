"""Parse the YAML of options and search spaces, which a user writes."""

from __future__ import annotations

from typing import Any

MOST_DEPTH = 20
"""Levels of a file of options; conditional parts of a search space are nested."""


def parse_options(text: str) -> Any:
    """Parse YAML of options.

    Raises:
        ValueError: For a text that is not YAML, nests deeper than options do, or repeats a part by an alias, with which
            a short text can stand for an endless one. The message repeats no line, which can hold a password.
    """
    import yaml

    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):  # step by step, while loading would recurse
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH or isinstance(event, yaml.AliasEvent):
                what = "aliases" if isinstance(event, yaml.AliasEvent) else f"more than {MOST_DEPTH} levels"
                raise ValueError(f"has {what}")
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise ValueError(f"{error.problem or 'not YAML'}{where}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{getattr(error, 'reason', 'not YAML')}") from None
