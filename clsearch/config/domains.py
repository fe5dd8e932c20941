"""Domains: the values of one hyperparameter that a study searches.

In records, tables and Optuna a value is plain: a number, a text, true, false or none. A domain turns a setting into its
plain form, and back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from clsearch.common.echo import echo
from clsearch.config.plain_values import Plain, show_value, to_plain

Domains: TypeAlias = "dict[str, Domain]"
"""Hyperparameter -> domain."""


class Domain(Protocol):
    """The values of one hyperparameter that a study searches."""

    @property
    def log(self) -> bool:
        """True if the logarithm is searched evenly."""
        ...

    @property
    def numeric(self) -> bool:
        """True if its values are numbers in order, false if they are choices."""
        ...

    @property
    def ends(self) -> tuple[Plain, ...]:
        """Both ends of a range, or every choice."""
        ...

    def problems(self) -> list[tuple[str, str]]:
        """Return the broken rules of the domain itself: id and words, the value included."""
        ...

    def contains(self, value: Any) -> bool:
        """Return True for a plain value of the domain."""
        ...

    def points(self, n: int) -> list[Any]:
        """Return at most n plain values, evenly spaced; every choice."""
        ...

    def plain(self, value: Any) -> Plain:
        """Return the plain form of a setting's value."""
        ...

    def setting(self, value: Plain) -> Any:
        """Return the setting of a plain value."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Return its form in study.json."""
        ...


@dataclass(frozen=True)
class Range:
    """The values of a number from low to high, on a linear or logarithmic scale.

    Args:
        low: Lower end, included; above 0 for a logarithmic range.
        high: Upper end, included; a search space needs low < high.
        log: Search the logarithm evenly instead of the number.
        step: Search multiples of this number above low only; not with log.

    Example:
        >>> Range(1.0, 3.0).points(3)
        [1.0, 2.0, 3.0]
        >>> Range(0.0, 0.9, step=0.3).contains(0.5)
        False
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    numeric = True

    @property
    def ends(self) -> tuple[Plain, ...]:
        """Both ends; the upper one on a step."""
        return self.low, self.high if self.step is None else self.points(2)[-1]

    def problems(self) -> list[tuple[str, str]]:
        """Return the broken rules of the range: id and words."""
        return range_problems(self.low, self.high, self.log, self.step, str(self))

    def contains(self, value: Any) -> bool:
        """Return True for a number between the ends, on a step if there is one."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-8

    def points(self, n: int) -> list[float]:
        """Return n >= 2 values from low to high, both included, evenly spaced on the range's scale."""
        shares = [i / (n - 1) for i in range(n)]
        if self.step is not None:
            most = math.floor((self.high - self.low) / self.step + 1e-8)
            taken = dict.fromkeys(round(share * most) for share in shares)
            return [float(f"{self.low + k * self.step:.12g}") for k in taken]
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            inner = [math.exp(low + share * (high - low)) for share in shares[1:-1]]
            inner = [float(f"{value:.12g}") for value in inner]  # 1000, not 1000.0000000000007
        else:
            inner = [self.low + share * (self.high - self.low) for share in shares[1:-1]]
        return [self.low, *inner, self.high]

    def plain(self, value: Any) -> Plain:
        """Return the number."""
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    def setting(self, value: Plain) -> Any:
        """Return the number."""
        return value

    def as_json(self) -> dict[str, Any]:
        """Return its form in study.json; a range without a step as in version 0.1."""
        step = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, "log": self.log} | step

    def scaled(self, by: float) -> Range:
        """Return the range times a number, with its ends rounded to one digit.

        Example:
            >>> LogRange(0.1, 100.0).scaled(32)
            Range(low=3.0, high=3000.0, log=True, step=None)
        """
        return replace(self, low=float(f"{self.low * by:.0e}"), high=float(f"{self.high * by:.0e}"))

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{show_scale(self.log, self.step)}"


def LogRange(low: float, high: float) -> Range:
    """Return a range whose logarithm is searched evenly.

    Args:
        low: Lower end, included, above 0.
        high: Upper end, included.

    Example:
        >>> LogRange(0.01, 100.0).points(3)
        [0.01, 1.0, 100.0]
    """
    return Range(low, high, log=True)


@dataclass(frozen=True)
class IntRange:
    """The whole numbers from low to high.

    Args:
        low: Lower end, included; at least 1 for a logarithmic range.
        high: Upper end, included; a search space needs low < high.
        log: Search the logarithm evenly instead of the number.
        step: Search every step-th number from low only; 1 with log.

    Example:
        >>> IntRange(5, 20).points(4)
        [5, 10, 15, 20]
        >>> IntRange(16, 256, log=True).points(3)
        [16, 64, 256]
    """

    low: int
    high: int
    log: bool = False
    step: int = 1

    numeric = True

    @property
    def ends(self) -> tuple[Plain, ...]:
        """Both ends; the upper one on a step."""
        return self.low, self.low + (self.high - self.low) // self.step * self.step

    def problems(self) -> list[tuple[str, str]]:
        """Return the broken rules of the range: id and words."""
        numbers = (self.low, self.high, self.step)
        if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
            return [("range-whole", f"an IntRange must have whole ends and a whole step; got {echo(self)}")]
        step = None if self.step == 1 else self.step
        return range_problems(self.low, self.high, self.log, step, str(self))

    def contains(self, value: Any) -> bool:
        """Return True for a whole number between the ends, on a step."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def points(self, n: int) -> list[int]:
        """Return at most n >= 2 different numbers from low to high, evenly spaced on the range's scale."""
        most = (self.high - self.low) // self.step
        if self.log:
            exact = Range(self.low, self.high, log=True).points(n)
            return list(dict.fromkeys(round(value) for value in exact))
        return list(dict.fromkeys(self.low + self.step * round(i / (n - 1) * most) for i in range(n)))

    def plain(self, value: Any) -> Plain:
        """Return the number; a float without a fraction as a whole number."""
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def setting(self, value: Plain) -> Any:
        """Return the number."""
        return value

    def as_json(self) -> dict[str, Any]:
        """Return its form in study.json."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step, "whole": True}

    def __str__(self) -> str:
        return f"{self.low} to {self.high}{show_scale(self.log, None if self.step == 1 else self.step)}"


class Choice:
    """Some values, in no order: names, numbers, true and false, none, widths of layers, functions that make a network.

    Args:
        *values: The values, each once.

    Example:
        >>> Choice("sgd", "adam").ends
        ('sgd', 'adam')
        >>> Choice((100, 100), (256, 256)).ends  # plain values, as in records and tables
        ('100,100', '256,256')
    """

    log = False
    numeric = False

    def __init__(self, *values: Any) -> None:
        self.values = tuple(tuple(value) if isinstance(value, list) else value for value in values)

    @cached_property
    def ends(self) -> tuple[Plain, ...]:
        """The plain form of every value."""
        return tuple(map(to_plain, self.values))

    def problems(self) -> list[tuple[str, str]]:
        """Return the broken rules of the choice: id and words."""
        if not self.values:
            return [("choice-of-values", "a choice must have at least one value; got none")]
        twice = [value for place, value in enumerate(self.ends) if value in self.ends[:place]]
        return [("choice-once", f"a choice must have each value once; got {show_value(one)} twice") for one in twice]

    def contains(self, value: Any) -> bool:
        """Return True for the plain form of a value; 1 is not true, and 0 is not false."""
        return any(value == end and isinstance(value, bool) == isinstance(end, bool) for end in self.ends)

    def points(self, n: int) -> list[Plain]:
        """Return every plain value."""
        return list(self.ends)

    def plain(self, value: Any) -> Plain:
        """Return the plain form of a value; a number as it is written in the choice."""
        plain = to_plain(value)
        return next((end for end in self.ends if end == plain and type(end) is not bool), plain)

    def setting(self, value: Plain) -> Any:
        """Return the value of a plain form."""
        return self.values[self.ends.index(value)]

    def as_json(self) -> dict[str, Any]:
        """Return its form in study.json: plain values, with widths as lists."""
        kept = (bool, int, float, str, tuple, type(None))
        return {"choices": [v if isinstance(v, kept) else to_plain(v) for v in self.values]}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and self.values == other.values

    def __hash__(self) -> int:
        return hash(self.ends)

    def __repr__(self) -> str:
        return f"Choice({', '.join(map(repr, self.values))})"

    def __str__(self) -> str:
        return ", ".join(map(show_value, self.ends))


def show_scale(log: bool, step: float | None) -> str:
    """Write the scale of a range after its ends."""
    return " (log)" if log else f" in steps of {step:g}" if step is not None else ""


def range_problems(low: Any, high: Any, log: bool, step: Any, shown: str) -> list[tuple[str, str]]:
    """Check the ends and the step of a range; return id and words of each broken rule."""
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in (low, high)):
        return [("range-of-numbers", f"a range must have two finite numbers as its ends; got {low!r} and {high!r}")]
    if not low < high:
        return [("range-increases", f"a range must go from low to high; got {shown}")]
    if log and low <= 0:
        return [("log-range-positive", f"a logarithmic range must lie above 0; got {shown}")]
    if log and step is not None:
        return [("log-without-step", f"a logarithmic range has no step; got {shown} in steps of {step:g}")]
    if step is not None and not 0 < step <= high - low:
        return [("step-in-range", f"a step must be above 0 and at most the length of its range; got {shown}")]
    return []
