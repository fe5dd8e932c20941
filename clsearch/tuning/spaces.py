"""Search spaces: tables keyed as the configuration is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from clsearch.core.config import ConfigError, TrialConfig, fields_of


@dataclass(frozen=True)
class Range:
    """The values from low to high of a number, linear or logarithmic; `space` needs low < high."""

    low: float
    high: float
    log: bool = False

    def points(self, n: int) -> list[float]:
        """n >= 2 values from low to high, both included, spaced as the range is."""
        steps = [i / (n - 1) for i in range(n)]
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            inner = [math.exp(low + s * (high - low)) for s in steps[1:-1]]
        else:
            inner = [self.low + s * (self.high - self.low) for s in steps[1:-1]]
        return [self.low, *inner, self.high]


def LogRange(low: float, high: float) -> Range:
    """A range whose logarithm is searched evenly."""
    return Range(low, high, log=True)


Space = dict[str, Range]

SPACES: dict[str, Space] = {
    "lwf": {
        "distillation_factor": LogRange(1e-4, 1e3),
        "distillation_temperature": LogRange(1e-2, 1e2),
    },
    "ewc": {
        "penalty_factor": LogRange(1e-1, 1e5),
        "penalty_p_norm": Range(1.0, 3.0),
    },
}
"""Algorithm -> the hyperparameters of its own, over ranges whose ends are visibly bad."""


def searchable() -> dict[str, str]:
    """Hyperparameters that may be searched, each with the scale of its range (`log` or `linear`)."""
    extras = {name: field.json_schema_extra for name, field in TrialConfig.model_fields.items()}
    return {name: str(extra["scale"]) for name, extra in extras.items() if isinstance(extra, dict)}


def check_space(algorithm: str, space: Space, settings: dict[str, Any]) -> None:
    """Refuse a space that is not of this algorithm, is empty of values, or whose bounds break a rule.

    Raises ConfigError with one line per problem.
    """
    own = [name for name in fields_of(algorithm) if name in searchable()]
    problems = [
        f"{name}: not a hyperparameter that {algorithm} can search; known are {', '.join(own)}"
        for name in space
        if name not in own
    ]
    for name, values in space.items():
        if name in own:
            problems += _range_problems(algorithm, name, values, settings)
    if problems:
        raise ConfigError(problems)


def _range_problems(algorithm: str, name: str, values: Range, settings: dict[str, Any]) -> list[str]:
    for bound in (values.low, values.high):
        try:
            TrialConfig.of(algorithm, settings | {name: bound})
        except ConfigError as error:
            broken = [problem for problem in error.problems if problem.startswith(f"{name}:")]
            if broken:
                return broken
    if values.log and values.low <= 0:
        return [f"{name}: a logarithmic range must begin above 0; got {values.low:g} to {values.high:g}"]
    if not values.low < values.high:
        return [f"{name}: a range must go from low to high; got {values.low:g} to {values.high:g}"]
    return []


def grid(space: Space, n: int) -> Iterable[dict[str, float]]:
    """All combinations of n points per dimension."""
    for values in product(*(r.points(n) for r in space.values())):
        yield dict(zip(space, values, strict=True))
