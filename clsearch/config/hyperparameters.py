"""Ranges of numbers to search, and the mark that makes a field searchable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Range:
    """The values of a number from low to high, on a linear or logarithmic scale.

    Args:
        low: Lower end, included; above 0 for a logarithmic range.
        high: Upper end, included; a search space needs low < high.
        log: Search the logarithm evenly instead of the number.

    Example:
        >>> Range(1.0, 3.0).points(3)
        [1.0, 2.0, 3.0]
    """

    low: float
    high: float
    log: bool = False

    def points(self, n: int) -> list[float]:
        """Return n >= 2 values from low to high, both included, evenly spaced on the range's scale."""
        steps = [i / (n - 1) for i in range(n)]
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            inner = [math.exp(low + s * (high - low)) for s in steps[1:-1]]
            inner = [float(f"{value:.12g}") for value in inner]  # 1000, not 1000.0000000000007
        else:
            inner = [self.low + s * (self.high - self.low) for s in steps[1:-1]]
        return [self.low, *inner, self.high]

    def scaled(self, by: float) -> Range:
        """Return the range times a number, with its ends rounded to one digit.

        Example:
            >>> LogRange(0.1, 100.0).scaled(32)
            Range(low=3.0, high=3000.0, log=True)
        """
        return Range(float(f"{self.low * by:.0e}"), float(f"{self.high * by:.0e}"), self.log)


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


Space = dict[str, Range]
"""Hyperparameter -> the range to search."""


@dataclass(frozen=True)
class Hyperparameter:
    """Mark a field of a section as a number that a study can search: `Annotated[float, Hyperparameter(...)]`.

    Members of a cohort can differ in it, so a method reads it from its hyperparameters, [M] each, and not from the
    configuration.

    Args:
        range: Default range. Its ends should be visibly bad.
        strongest: The part of the range in which the *other* hyperparameters have the largest effect; the check that
            each one acts sets this one there.
        symbol: The letter that papers use, for names of runs.
        decays: The continual protocol starts it at the top of its range and halves it.
        special: A value with cheaper arithmetic of its own, such as p = 2 of a p-norm.
    """

    range: Range
    strongest: Literal["low", "middle", "high"] = "middle"
    symbol: str | None = None
    decays: bool = False
    special: float | None = None
