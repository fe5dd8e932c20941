"""Settings of a method of your own: declared in a line each, typed, validated, documented and searchable."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import Field, TypeAdapter, ValidationError, create_model

from clsearch.common.echo import echo
from clsearch.common.errors import ConfigError, Refusal
from clsearch.config.domains import IntRange, Range
from clsearch.config.hyperparameters import Hyperparameter, PerMember, Scale
from clsearch.config.sections import Section

KINDS: tuple[type, ...] = (float, int, bool, str)
"""Types that a setting can have, besides a list of names."""


@dataclass(frozen=True)
class Setting:
    """A setting of a method of your own: `register("mine", ..., settings={"alpha": Setting(float, 0.5, gt=0)})`.

    It becomes a field of the configuration, an option with help, and can be searched. Of a number, `prepare` gets the
    value of each member, [M].

    Args:
        kind: float, int, bool, str, or the names that it can have, as `("a", "b")`.
        default: Its value unless a study gives another.
        description: A sentence for the help.
        gt: A number must be above it.
        ge: A number must be at least it.
        lt: A number must be below it.
        le: A number must be at most it.
        scale: Scale on which a range of it is searched.
        range: Searched by default, if a study names no space; None: searched only if a study says so.
        symbol: The letter that papers use, for names of runs.

    Example:
        >>> from clsearch import Setting, register
        >>> register("toy", settings={"alpha": Setting(float, 0.5, gt=0), "mode": Setting(("a", "b"), "a")})
        >>> from clsearch.methods.registry import configure
        >>> configure("toy", {"epochs": 1, "mode": "b"}).alpha
        0.5
    """

    kind: Any
    default: Any
    description: str = ""
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    scale: Literal["linear", "log"] = "linear"
    range: Range | IntRange | None = None
    symbol: str | None = None

    @property
    def annotation(self) -> Any:
        """The type of its field."""
        return Literal[tuple(self.kind)] if isinstance(self.kind, tuple | list) else self.kind

    @property
    def field(self) -> tuple[Any, Any]:
        """Its field for pydantic: annotation and default."""
        marks: list[Any] = [Scale(log=self.scale == "log")]
        if self.range is not None:
            marks = [Hyperparameter(cast(Range, self.range), symbol=self.symbol)]
        elif self.kind in (float, int):
            marks.append(PerMember())
        bounds = {name: getattr(self, name) for name in BOUNDS if getattr(self, name) is not None}
        return Annotated[self.annotation, *marks], Field(self.default, description=self.description, **bounds)


BOUNDS = ("gt", "ge", "lt", "le")
"""Names of a setting's bounds."""


def setting_problems(name: str, setting: Any) -> Iterator[Refusal]:
    """Yield why a setting cannot be declared so."""
    where = f"settings: {name}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        yield Refusal("setting-name", f"{where} must be a name of small letters, digits and underscores; got {name!r}")
    if not isinstance(setting, Setting):
        yield Refusal("setting-declared", f"{where} must be a Setting; got {echo(setting)}")
        return
    names = setting.kind if isinstance(setting.kind, tuple | list) else None
    if names is None and setting.kind not in KINDS:
        yield Refusal("setting-kind", f"{where} must be float, int, bool, str or some names; got {echo(setting.kind)}")
        return
    if names is not None and (not names or not all(isinstance(one, str) for one in names)):
        yield Refusal("setting-kind", f"{where} must be float, int, bool, str or some names; got {echo(names)}")
        return
    numeric = setting.kind in (float, int)
    if not numeric and any(getattr(setting, bound) is not None for bound in BOUNDS):
        yield Refusal("setting-bounds", f"{where} must be a number to have bounds; got {echo(setting.kind)}")
        return
    fitting: Any = {float: Range | IntRange, int: IntRange}.get(setting.kind, ())
    if setting.range is not None and not isinstance(setting.range, fitting):
        rule = "can have a Range if it is a float, an IntRange if it is an int, and else none"
        yield Refusal("setting-range", f"{where} {rule}; got {echo(setting.range)}")
        return
    values = (setting.default, *(setting.range.ends if setting.range is not None else ()))
    for value in values:
        try:
            kind: Any = Annotated[setting.field]
            TypeAdapter(kind).validate_python(value, strict=setting.kind in (bool, str))
        except ValidationError as error:
            words = error.errors()[0]["msg"].replace("Input should be", "must be")
            yield Refusal(
                "setting-default", f"{where} has a default or a range that breaks its rule: {words}; got {echo(value)}"
            )
            return


def make_section(name: str, settings: Mapping[str, Setting], others: Mapping[str, Any]) -> type[Section]:
    """Make the section of a method from its settings.

    Args:
        name: Name of the method.
        settings: Name -> setting.
        others: Name -> pydantic's field of another method's setting.

    Raises:
        ConfigError: For a setting that cannot be declared so.
    """
    problems = [problem for each, setting in settings.items() for problem in setting_problems(str(each), setting)]
    if problems:
        raise ConfigError(problems)
    fields: Any = {each: (field.annotation, field) for each, field in others.items()}
    fields |= {each: setting.field for each, setting in settings.items()}
    return create_model("Custom", __base__=Section, __doc__=name.replace("_", " "), **fields)
