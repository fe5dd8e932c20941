"""What the final evaluation of a study measures: the choice and its references, on one or two benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

from clsearch.config.trial import TrialConfig
from clsearch.planning.plan import Plan


@dataclass(frozen=True)
class Target:
    """A benchmark and tasks on which a choice is scored.

    Attributes:
        on: `reported` or `full_sequence`.
        config: The configuration on the target's benchmark.
        tasks: The tasks that are learned, from fresh weights.
    """

    on: str
    config: TrialConfig
    tasks: tuple[int, ...]


def targets_of(plan: Plan) -> list[Target]:
    """Return the target of the protocol, and the full sequence of the search's benchmark, on which protocols are
    compared.
    """
    full = Target("full_sequence", plan.config, tuple(range(1, plan.config.tasks + 1)))
    reported = Target("reported", plan.report or plan.config, plan.reported)
    return [full] if (reported.config, reported.tasks) == (full.config, full.tasks) else [reported, full]


def rows_of(plan: Plan) -> list[tuple[Target, str]]:
    """Return the configurations to measure: the choice, then its references, on each target."""
    return [(target, algorithm) for target in targets_of(plan) for algorithm in (plan.algorithm, *plan.references)]
