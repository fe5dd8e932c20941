"""Marks of numeric fields: the default ranges of a study, what members of a cohort can differ in, and scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clsearch.config.domains import Range


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


@dataclass(frozen=True)
class PerMember:
    """Mark a number that members of a cohort can differ in and that no study searches by default.

    Training reads it as it reads a `Hyperparameter`: a value for each member where they differ, and as a plain number
    where all have the same.

    Args:
        apart: A value with which training keeps other tensors or logs (momentum 0 keeps no velocity), so that it is
            another structure: a member that has it trains with others that have it.
    """

    apart: float | None = None


@dataclass(frozen=True)
class Scale:
    """Mark a numeric field whose ranges are logarithmic unless they say otherwise: `Annotated[int, Scale(log=True)]`.

    Args:
        log: True for a logarithmic scale.
    """

    log: bool
