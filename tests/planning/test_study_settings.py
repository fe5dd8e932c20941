"""The types of the keywords of studies are those of the fields behind them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, Unpack, get_args, get_origin, get_type_hints

import pytest

from clsearch import Comparison, Study, StudySettings
from clsearch.methods.registry import BUILT_IN
from clsearch.planning.options import Options, Pruner
from clsearch.planning.study_settings import SharedSettings

FIELDS = Options.model_fields | {
    name: field
    for method in BUILT_IN.values()
    for section in method.sections
    for name, field in section.model_fields.items()
}

WIDER = {
    "sampler": Literal["tpe", "random", "grid", "qmc", "nsga2", "nsga3", "gp", "cmaes"] | Any,
    "pruner": Pruner | Literal["none", "asha", "median"] | Any,
    "constraints": Mapping[str, float],
    "backbone": str | Callable[..., Any],
    "enqueue": str | Path | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    "unlearn": Sequence[str] | Mapping[int, int | Sequence[int]],
}
"""Settings that validators take in more forms than their field has."""


def accepted(kind: Any) -> Any:
    """The type of values that pydantic accepts for a field of this type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return accepted(arguments[0])
    if origin in (Union, UnionType):
        return Union[tuple(map(accepted, arguments))]  # noqa: UP007
    if origin is tuple:
        return Sequence[accepted(arguments[0])]
    if kind is Path:
        return str | Path
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind | Literal[tuple(member.value for member in kind)]
    return kind


HINTS = get_type_hints(StudySettings)


def test_every_option_and_every_field_of_a_method_is_a_keyword() -> None:
    assert HINTS.keys() == FIELDS.keys()
    assert {*SharedSettings.__annotations__} == {*HINTS} - {"name"}


@pytest.mark.parametrize("name", FIELDS)
def test_a_keyword_has_the_type_that_its_field_accepts(name: str) -> None:
    assert HINTS[name] == WIDER.get(name, accepted(FIELDS[name].annotation))


@pytest.mark.parametrize(("made", "settings"), [(Study, StudySettings), (Comparison, SharedSettings)])
def test_studies_and_comparisons_show_their_settings(made: type, settings: type) -> None:
    assert get_type_hints(made.__init__)["settings"] == Unpack[settings]
    text = inspect.getdoc(made) or ""
    assert all(f"\n    {name}: {FIELDS[name].description}"[:60] in text for name in settings.__annotations__)
