"""Options of a command line, made from the fields of a section: types, defaults and help."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Union, get_origin

from pydantic.fields import FieldInfo

from clsearch.config.domains import Domain
from clsearch.config.plain_values import to_plain
from clsearch.config.sections import BENCHMARKS, FOLDER, Section
from clsearch.config.spaces import SearchSpace
from clsearch.planning.config_file import write_nested
from clsearch.planning.samplers import describe_choice
from clsearch.planning.search_fields import (
    SearchField,
    write_word,
    write_words,
)

EVERY_BENCHMARK = (*BENCHMARKS, f"{FOLDER}PATH")


OPEN_NAMES = {"benchmark": EVERY_BENCHMARK, "report_benchmark": EVERY_BENCHMARK}


WORDS = {"enqueue": "FILE|{...} [FILE|{...} ...]"}
"""Options that take files or values in YAML -> what the help shows for them."""


def _group(
    section: type[Section],
    settings: dict[str, Any],
    space: SearchSpace,
    searched: Mapping[str, SearchField],
    without: Collection[str],
) -> type:
    """Make tyro's dataclass of one section; its defaults are the script's."""
    rows = []
    unconditional = {part.name: part.domain for part in space.parts if not part.conditions}
    for name, field in section.model_fields.items():
        if name in without:
            continue
        default = settings.get(name, field.default)
        if name in searched:
            # Plain words for tyro, so that the section's own rules refuse them.
            kind: Any = Annotated[tuple[str, ...] | None, _argument(field, searched[name].metavar)]
            default = _default_words(searched[name], unconditional.get(name), default)
        elif isinstance(field.default, dict):
            kind = Annotated[tuple[str, ...], _argument(field, "METRIC VALUE")]
            default = tuple(str(word) for pair in default.items() for word in pair)
        elif name in OPEN_NAMES:
            text = str | None if field.default is None else str
            default = default if default is None else describe_choice(default)
            shown = OPEN_NAMES[name]
            kind = Annotated[text, _argument(field, "{" + ",".join(shown) + "}" if len(shown) > 1 else shown[0])]
        elif name in WORDS:
            kind = Annotated[tuple[str, ...] | None, _argument(field, WORDS[name])]
            default = None if default is None else tuple(map(write_nested, default))
        else:
            kind = Annotated[_optional(field), _argument(field, None)]
        rows.append((name, kind, dataclasses.field(default=default)))
    heading = (section.__doc__ or section.__name__).strip().partition("\n")[0].rstrip(".")
    group = dataclasses.make_dataclass(re.sub(r"\W+", "_", heading), rows)
    group.__doc__ = section.__doc__
    return group


def _default_words(field: SearchField, domain: Domain | None, default: Any) -> tuple[str, ...] | None:
    """Write the script's value or domain of a field as words."""
    if domain is not None:
        return tuple(write_words(field, domain))
    if default is None:
        return None
    several = isinstance(default, tuple | list)
    return tuple(write_word(one) for one in default) if several else (write_word(to_plain(default)),)


def _optional(field: FieldInfo) -> Any:
    """Return the type of a field, with None if its default follows another field."""
    if field.default is None and get_origin(field.annotation) not in (Union, types.UnionType):
        return field.annotation | None  # type: ignore[operator]
    return field.annotation


def _argument(field: FieldInfo, metavar: str | None) -> Any:
    import tyro

    allowed = describe_bounds(field)
    return tyro.conf.arg(help=f"{field.description} ({allowed})" if allowed else field.description, metavar=metavar)


def describe_bounds(field: FieldInfo) -> str:
    """Describe the bounds of a field, as in `at least 1`; empty if it has none."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = {
        name: bound for rule in field.metadata for name in words if (bound := getattr(rule, name, None)) is not None
    }
    return ", ".join(f"{words[name]} {bound:g}" for name, bound in bounds.items())
