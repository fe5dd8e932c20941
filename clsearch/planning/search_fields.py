"""Which settings a study can search, and how their values and domains are written in YAML and on a command line."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from clsearch.common.echo import echo
from clsearch.common.errors import ConfigError, Refusal, did_you_mean
from clsearch.config.domains import Choice, Domain, IntRange, Range
from clsearch.config.hyperparameters import Hyperparameter, Scale
from clsearch.config.sections import BACKBONES
from clsearch.config.space_parts import When
from clsearch.config.spaces import SearchSpace
from clsearch.methods.registry import method_named
from clsearch.planning.option_yaml import parse_options

QUESTION = "part of the question: results on different data or tasks do not compare. Use a study for each value"

NOT_SEARCHED = {
    "benchmark": QUESTION,
    "scenario": QUESTION,
    "tasks": QUESTION,
    "classes_per_task": QUESTION,
    "class_order": QUESTION,
    "grouping": QUESTION,
    "image_size": QUESTION,
    "image_channels": QUESTION,
    "data_root": "a place, not a property of training",
    "unlearn": QUESTION,
    "disable_unlearning": "a control, not a choice",
    "unlearning_distance": "a measure, not a property of training",
}
"""Field of a trial's configuration that a study cannot search -> the reason. Every other field can be searched."""


class ValueKind(Enum):
    """What the values of a field are: numbers, whole numbers, names, true and false, or several of them."""

    NUMBER = auto()
    WHOLE = auto()
    NAME = auto()
    FLAG = auto()
    SEVERAL = auto()


@dataclass(frozen=True)
class SearchField:
    """A field that a study can search.

    Attributes:
        name: Its name.
        kind: What its values are.
        log: True if a range of it is logarithmic unless it says otherwise.
        known: The values that it can have, if they are a list of names.
        optional: True if it can be none.
    """

    name: str
    kind: ValueKind
    log: bool = False
    known: tuple[str, ...] = ()
    optional: bool = False

    @property
    def metavar(self) -> str:
        """What the help shows for its value."""
        names = "{" + ",".join(self.known) + "}"
        return {
            ValueKind.NUMBER: "FLOAT [FLOAT ...]",
            ValueKind.WHOLE: "INT [INT ...]",
            ValueKind.NAME: f"{names} [...]",
            ValueKind.FLAG: "[{true,false} ...]",
            ValueKind.SEVERAL: "N [N ...] | N,N [N,N ...]",
        }[self.kind]


def search_fields(algorithm: str) -> dict[str, SearchField]:
    """Return the fields that a study of an algorithm can search, by name."""
    return {
        name: describe_field(name, field)
        for section in method_named(algorithm).sections
        for name, field in section.model_fields.items()
        if name not in NOT_SEARCHED
    }


def describe_field(name: str, field: FieldInfo) -> SearchField:
    """Find from a field's type what its values are."""
    annotation, optional = field.annotation, field.default is None
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
        optional = True
    log = any(
        mark.range.log if isinstance(mark, Hyperparameter) else mark.log
        for mark in field.metadata
        if isinstance(mark, Hyperparameter | Scale)
    )
    if get_origin(annotation) is tuple:
        return SearchField(name, ValueKind.SEVERAL, optional=optional)
    if get_origin(annotation) is Literal:
        return SearchField(name, ValueKind.NAME, known=tuple(map(str, get_args(annotation))), optional=optional)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return SearchField(name, ValueKind.NAME, known=tuple(map(str, annotation)), optional=optional)
    kinds = {bool: ValueKind.FLAG, int: ValueKind.WHOLE, float: ValueKind.NUMBER}
    kind = kinds.get(annotation, ValueKind.NAME) if isinstance(annotation, type) else ValueKind.NAME
    known = BACKBONES if name == "backbone" else ()
    return SearchField(name, kind, log, known, optional)


def read_words(field: SearchField, words: Sequence[str]) -> Any:
    """Read the words of an option: one value, or a domain.

    Two numbers are a range, more are a choice; two names are a choice. Several numbers of a field that takes several
    are one value, and words with commas are a choice of such values. `{low: 1, high: 8, log: true}` and
    `{choice: [1, 8]}` say exactly what is meant.

    Raises:
        ConfigError: For words that cannot be read so.
    """
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return read_value(field, read_flow(field.name, words[0]))
    if field.kind is ValueKind.SEVERAL:
        lists = [[read_word(field, part) for part in word.split(",") if part.strip()] for word in words]
        if not any("," in word for word in words):
            return None if words == ["None"] else tuple(number for one in lists for number in one)
        return tuple(lists[0]) if len(lists) == 1 else Choice(*map(tuple, lists))
    if not words:
        raise ConfigError([Refusal("value-given", f"{field.name}: must have a value; got none")])
    values = [read_word(field, word) for word in words]
    return values[0] if len(values) == 1 else combine(field, values)


def read_flow(name: str, word: str) -> Any:
    """Read a word that is YAML or JSON. Raises ConfigError."""
    try:
        return parse_options(word)
    except ValueError as error:
        raise ConfigError(
            [Refusal("space-yaml", f"{name}: must be YAML, such as {{low: 1, high: 8}}; got {echo(word)} ({error})")]
        ) from None


def read_word(field: SearchField, word: str) -> Any:
    """Read one value; what is not of the field's type stays text, which the field refuses."""
    text = word.strip()
    if field.optional and text.lower() in ("none", "null"):
        return None
    if field.kind is ValueKind.FLAG:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), word)
    if field.kind is ValueKind.NAME:
        return word
    for kind in (int, float):
        if kind is int and field.kind is ValueKind.NUMBER:
            continue
        try:
            return kind(text)
        except ValueError:
            continue
    return word


def combine(field: SearchField, values: Sequence[Any]) -> Domain:
    """Make the domain of several values: two numbers are a range, anything else is a choice. Raises ConfigError."""
    if field.kind in (ValueKind.NUMBER, ValueKind.WHOLE):
        if wrong := [one for one in values if isinstance(one, str)]:
            kind = "a whole number" if field.kind is ValueKind.WHOLE else "a number"
            raise ConfigError([Refusal("range-of-numbers", f"{field.name}: must be {kind}; got {echo(wrong[0])}")])
        if len(values) == 2 and None not in values:
            log = field.log and values[0] > 0
            whole = field.kind is ValueKind.WHOLE and all(isinstance(one, int) for one in values)
            low, high = values
            return IntRange(low, high, log) if whole else Range(float(low), float(high), log)
    return Choice(*values)


def read_value(field: SearchField, value: Any) -> Any:
    """Read the value of a field in YAML: one value, or a domain.

    Raises:
        ConfigError: For a mapping that is neither a range nor a choice, or a list that cannot be read as a range.
    """
    if isinstance(value, Mapping):
        return read_mapping(field, value)
    value = read_numbers(field, value)
    if not isinstance(value, list):
        return value
    if field.kind is ValueKind.SEVERAL:
        nested = [isinstance(one, list) for one in value]
        return Choice(*map(tuple, value)) if value and all(nested) else tuple(value)
    return value[0] if len(value) == 1 else combine(field, value)


def read_numbers(field: SearchField, value: Any) -> Any:
    """Read numbers that YAML takes for text, as 1e-3, in a value or in a list."""
    if isinstance(value, list):
        return [read_numbers(field, one) for one in value]
    return read_word(field, value) if isinstance(value, str) else value


def read_mapping(field: SearchField, value: Mapping[str, Any]) -> Domain:
    """Read `{low: ..., high: ..., log: ..., step: ...}` or `{choice: [...]}`. Raises ConfigError."""
    rule = "must have low and high, and can have log and step, or must have choice alone"
    refusal = ConfigError([Refusal("domain-keys", f"{field.name}: {rule}; got {echo(dict(value))}")])
    if {*value} == {"choice"} and isinstance(value["choice"], list):
        return Choice(*read_numbers(field, value["choice"]))
    if not {"low", "high"} <= {*value} <= {"low", "high", "log", "step"}:
        raise refusal
    low, high, step = (read_numbers(field, value.get(key)) for key in ("low", "high", "step"))
    numbers = [low, high] + [step] * (step is not None)
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise refusal
    log = bool(value.get("log", field.log and step is None and low > 0))
    if field.kind is ValueKind.WHOLE and all(isinstance(n, int) for n in numbers):
        return IntRange(low, high, log, step or 1)
    return Range(float(low), float(high), log, step)


def write_value(field: SearchField, domain: Domain) -> Any:
    """Write a domain as YAML, as short as it can be read back."""
    if isinstance(domain, Range):
        domain = replace(domain, low=float(domain.low), high=float(domain.high))
    if isinstance(domain, Choice):
        values = [list(v) if isinstance(v, tuple) else v for v in domain.as_json()["choices"]]
        exact: Any = {"choice": values}
    else:
        values = [domain.low, domain.high] if isinstance(domain, Range | IntRange) else []
        exact = {key: value for key, value in domain.as_json().items() if key != "whole"}
        exact = {key: value for key, value in exact.items() if (key, value) != ("step", 1)}
    return values if len(values) > 1 and read_value(field, values) == domain else exact


def write_words(field: SearchField, domain: Domain) -> list[str]:
    """Write a domain as the words of its option."""
    value = write_value(field, domain)
    if isinstance(value, dict):
        return [json.dumps(value)]
    return [write_word(one) for one in value]


def write_word(value: Any) -> str:
    """Write one value as a word of a command line."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) + "," * (len(value) == 1)
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def read_space(fields: Mapping[str, SearchField], content: Any, where: str) -> list[Mapping[str, Any] | When]:
    """Read a space in YAML: a line `hyperparameter: domain` each, and under `when` a list of conditional parts.

    A conditional part is such a mapping with `if: {hyperparameter: value}`, and can have a `when` of its own.

    Args:
        fields: The fields that can be searched.
        content: What the YAML holds.
        where: What it is called in a refusal.

    Raises:
        ConfigError: For anything else.
    """
    rule = f"{where}: must have a line `hyperparameter: domain` each"
    if not isinstance(content, Mapping):
        raise ConfigError([Refusal("space-file", f"{rule}; got {echo(content)}")])
    names = [str(name) for name in content if name not in ("when", "if")]
    if unknown := [name for name in names if name not in fields]:
        raise ConfigError(unknown_field(name, fields) for name in unknown)
    whole: list[Mapping[str, Any] | When] = [{name: read_value(fields[name], content[name]) for name in names}]
    parts = content.get("when", [])
    for part in parts if isinstance(parts, list) else [parts]:
        whole.append(read_when(fields, part, where))
    return whole


def unknown_field(name: str, fields: Mapping[str, SearchField]) -> Refusal:
    """Refuse a name that no study, or not this one, can search."""
    if name in NOT_SEARCHED:
        return Refusal("searchable", f"{name}: not searched, because it is {NOT_SEARCHED[name]}")
    rule = f"not a hyperparameter that this study can search{did_you_mean(name, fields)}"
    return Refusal("searchable", f"{name}: {rule}; known are {', '.join(fields)}")


def read_when(fields: Mapping[str, SearchField], part: Any, where: str) -> When:
    """Read a conditional part of a space. Raises ConfigError."""
    asked = part.get("if") if isinstance(part, Mapping) else None
    if not isinstance(asked, Mapping) or not asked:
        text = f"{where}: each part under `when` must have a line `if: {{hyperparameter: value}}`; got {echo(part)}"
        raise ConfigError([Refusal("when-needs-if", text)])
    inner: Any = read_space(fields, {name: value for name, value in part.items() if name != "if"}, where)
    *others, last = asked.items()
    whole = When(str(last[0]), last[1], inner)
    for name, value in reversed(others):
        whole = When(str(name), value, whole)
    return whole


def write_whens(fields: Mapping[str, SearchField], space: SearchSpace) -> list[dict[str, Any]]:
    """Write the conditional parts of a space as YAML."""
    parts: dict[tuple[Any, ...], dict[str, Any]] = {}
    for part in space.parts:
        if part.conditions:
            asked = {name: values[0] if len(values) == 1 else list(values) for name, values in part.conditions}
            written = parts.setdefault(part.conditions, {"if": asked})
            single = isinstance(part.domain, Choice) and len(part.domain.values) == 1
            value = part.domain.as_json()["choices"][0] if single else write_value(fields[part.name], part.domain)
            written[part.name] = list(value) if isinstance(value, tuple) else value
    return list(parts.values())
