"""Search spaces: the default ones, and the rules for the space of a study."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

from clsearch.common.errors import ConfigError, Refusal
from clsearch.config.hyperparameters import Range, Space
from clsearch.data.datasets import Source
from clsearch.methods.registry import BUILT_IN, configure, method_named

SPACES: dict[str, Space] = {name: method.search_space for name, method in BUILT_IN.items()}
"""Algorithm -> its own hyperparameters over their default ranges (those with the default Fisher information)."""


def check_space(algorithm: str, space: Space, settings: dict[str, Any], source: Source | None = None) -> None:
    """Refuse a hyperparameter that the algorithm cannot search or that cannot act, and a range that breaks a rule.

    Args:
        algorithm: Name of the algorithm.
        space: Hyperparameter -> the range to search.
        settings: Flat settings that all trials share.
        source: Of the benchmark, if it is known.

    Raises:
        ConfigError: With one line per problem.
    """
    method = method_named(algorithm)
    known = [name for name in method.fields if name in method.hyperparameters]
    rule = f"not a hyperparameter that {algorithm} can search; known are {', '.join(known)}"
    problems = [Refusal("searchable", f"{name}: {rule}") for name in space if name not in known]
    problems += [
        Refusal("space-of-ranges", f"{name}: must be a Range or a LogRange, from low to high; got {values!r}")
        for name, values in space.items()
        if not isinstance(values, Range)
    ]
    idle = method.idle_hyperparameters(settings)
    problems += [Refusal("searched-acts", f"{name}: {idle[name]}") for name in space if name in idle]
    for name, values in space.items():
        if name in known and isinstance(values, Range):
            problems += _range_problems(algorithm, name, values, settings, source)
    if problems:
        raise ConfigError(problems)


def _range_problems(
    algorithm: str, name: str, values: Range, settings: dict[str, Any], source: Source | None
) -> list[Refusal]:
    """Check the bounds of one range, first as values of the field (so above 0), then as a range."""
    for bound in (values.low, values.high):
        try:
            configure(algorithm, settings | {name: bound}, source)
        except ConfigError as error:
            if broken := [problem for problem in error.problems if problem.field == name]:
                return broken
    shown = f"{values.low:g} to {values.high:g}"
    if not values.low < values.high:
        return [Refusal("range-increases", f"{name}: a range must go from low to high; got {shown}")]
    return []


def grid(space: Space, n: int) -> Iterable[dict[str, float]]:
    """Generate all combinations of n points per dimension."""
    for values in product(*(range_.points(n) for range_ in space.values())):
        yield dict(zip(space, values, strict=True))
