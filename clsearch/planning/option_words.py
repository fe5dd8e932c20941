"""Words of a study's command line, before a parser sees them: unknown, several, flags, constraints."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from pydantic.fields import FieldInfo

from clsearch.common.errors import ConfigError, Refusal, did_you_mean
from clsearch.planning.config_file import to_flag
from clsearch.planning.search_fields import (
    NOT_SEARCHED,
    SearchField,
    ValueKind,
)


def check_flags(words: Sequence[str], known: Collection[str]) -> None:
    """Refuse an option that does not exist, and suggest one. Raises ConfigError."""
    flags = dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("--") and len(word) > 2)
    names = {flag: flag.lstrip("-").replace("-", "_") for flag in flags}
    unknown = {
        flag: name
        for flag, name in names.items()
        if name not in known and name.removeprefix("no_") not in known and name != "help"
    }
    if unknown:
        raise ConfigError(
            Refusal(
                "option-known",
                f"{name}: must be an option{did_you_mean(name, sorted(known))}; got {flag} (--help lists all)",
            )
            for flag, name in unknown.items()
        )


def check_single(words: Sequence[str], known: Mapping[str, FieldInfo]) -> None:
    """Refuse several values of an option that takes one, and say why it is not searched. Raises ConfigError."""
    given: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0].lstrip("-").replace("-", "_")
            given[name] = []
        elif name:
            given[name].append(word)
    several = {name for name, field in known.items() if re.search("tuple|dict", str(field.annotation))}
    problems = [
        Refusal("one-value", f"{name}: must have one value{_why_single(name)}; got {' '.join(values)}")
        for name, values in given.items()
        if name in known and len(values) > 1 and name not in several
    ]
    if problems:
        raise ConfigError(problems)


def _why_single(name: str) -> str:
    return f", because it is {NOT_SEARCHED[name]}" if name in NOT_SEARCHED else ""


def spell_flags(words: Sequence[str], searched: Mapping[str, SearchField]) -> list[str]:
    """Write `--flag` and `--no-flag` of settings that are true or false with a value, since they can have several."""
    flags = {to_flag(name) for name, field in searched.items() if field.kind is ValueKind.FLAG}
    spelled: list[str] = []
    for word, following in pairwise([*words, "--"]):
        name = word.replace("_", "-")
        if name.replace("--no-", "--", 1) in flags - {name}:
            spelled += [name.replace("--no-", "--", 1), "false"]
        elif name in flags and following.startswith("--"):
            spelled += [word, "true"]
        else:
            spelled.append(word)
    return spelled


def join_constraints(words: Sequence[str]) -> list[str]:
    """Write every `--constraint METRIC VALUE` as pairs of one `--constraints`, ahead of the other words."""
    pairs, others, inside = list[str](), list[str](), False
    for word in words:
        if word.startswith("--"):
            inside = word in ("--constraint", "--constraints")
        if inside:
            pairs += [] if word.startswith("--") else [word]
        else:
            others.append(word)
    return ["--constraints", *pairs, *others] if len(others) < len(words) else others


def read_constraints(words: Sequence[str]) -> dict[str, Any]:
    """Read pairs of a metric and a number; the rules of the option refuse what is no number. Raises ConfigError."""
    if len(words) % 2:
        text = f"constraints: must be pairs, METRIC VALUE; got {' '.join(words)}"
        raise ConfigError([Refusal("constraint-pairs", text)])
    return dict(zip(words[::2], words[1::2], strict=True))
