"""Search spaces: the default ones, and the rules of one that a study names."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

from clsearch.common.errors import ConfigError
from clsearch.config.hyperparameters import Range, Space
from clsearch.data.datasets import Source
from clsearch.methods.registry import BUILT_IN, configure, method_named

SPACES: dict[str, Space] = {name: method.search_space for name, method in BUILT_IN.items()}
"""Algorithm -> its own hyperparameters, over ranges whose ends are visibly bad (with the default Fisher)."""


def check_space(algorithm: str, space: Space, settings: dict[str, Any], source: Source | None = None) -> None:
    """Refuse a space that is not of this algorithm, is empty of values, whose bounds break a rule, or of which a
    hyperparameter cannot act. source: the benchmark's, where it is known already.

    Raises ConfigError with one line per problem.
    """
    method = method_named(algorithm)
    own = [name for name in method.fields if name in method.hyperparameters]
    problems = [
        f"{name}: not a hyperparameter that {algorithm} can search; known are {', '.join(own)}"
        for name in space
        if name not in own
    ]
    problems += [
        f"{name}: must be a Range or a LogRange, from low to high; got {values!r}"
        for name, values in space.items()
        if not isinstance(values, Range)
    ]
    idle = method.idle_hyperparameters(settings)
    problems += [f"{name}: {idle[name]}" for name in space if name in idle]
    for name, values in space.items():
        if name in own and isinstance(values, Range):
            problems += _range_problems(algorithm, name, values, settings, source)
    if problems:
        raise ConfigError(problems)


def _range_problems(
    algorithm: str, name: str, values: Range, settings: dict[str, Any], source: Source | None
) -> list[str]:
    for bound in (values.low, values.high):
        try:
            configure(algorithm, settings | {name: bound}, source)
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
