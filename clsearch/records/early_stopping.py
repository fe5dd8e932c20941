"""Summarize early stopping: the stopped trials, at which tasks, and the savings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clsearch.common.statistics import rank_correlation
from clsearch.planning.options import Pruner
from clsearch.planning.plan import Plan
from clsearch.planning.protocols import GRACE
from clsearch.records.trial_metrics import metric_of_each
from clsearch.records.trials import TrialRecord

REDUCTION = 3
"""Of the trials that reach a rung of asha, one in this many continues."""


def rungs(plan: Plan) -> list[int]:
    """Return the numbers of learned tasks after which trials are compared."""
    tasks = len(plan.tasks)
    if plan.options.pruner is Pruner.ASHA:
        return asha_rungs(tasks - 1)
    return list(range(GRACE, tasks)) if plan.options.pruner is Pruner.MEDIAN else []


def asha_rungs(tasks: int) -> list[int]:
    """Return the rungs of asha up to a number of tasks."""
    return [rung for n in range(tasks) if (rung := GRACE * REDUCTION**n) <= tasks]


@dataclass(frozen=True)
class Rung:
    """A number of learned tasks at which trials were compared.

    Attributes:
        tasks: Number of learned tasks.
        stopped: Number of trials that were stopped there.
        correlation: Spearman's rank correlation of the scores there with the scores after the last task, over the
            `finished` trials; NaN for fewer than three.
        finished: Number of finished trials.
    """

    tasks: int
    stopped: int
    correlation: float
    finished: int


@dataclass(frozen=True)
class EarlyStopping:
    """The effect of early stopping.

    Attributes:
        trials: Number of stopped trials.
        saved: Task-seed trainings that were saved, of `total`.
        total: Task-seed trainings without early stopping.
        rungs: The points of comparison.
    """

    trials: int
    saved: int
    total: int
    rungs: tuple[Rung, ...]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> EarlyStopping:
        """Read it from best.json, in which a NaN correlation is null."""
        rungs = [
            Rung(**rung | {"correlation": float("nan" if (found := rung["correlation"]) is None else found)})
            for rung in content["rungs"]
        ]
        return cls(**content | {"rungs": tuple(rungs)})


def early_stopping_json(found: EarlyStopping) -> dict[str, Any]:
    """Return its content in best.json."""
    return asdict(found)


def summarize_early_stopping(plan: Plan, records: Sequence[TrialRecord]) -> EarlyStopping | None:
    """Summarize early stopping; return None if the plan has none."""
    if plan.options.pruner is Pruner.NONE or plan.protocol.value == "continual":
        return None
    stopped = [r for r in records if r.state == "pruned"]
    finished = [r for r in records if r.state == "finished"]
    tasks, M = len(plan.tasks), len(plan.seeds)
    saved = sum((tasks - r.tasks_learned) * M for r in stopped)
    found = tuple(
        Rung(at, sum(r.tasks_learned == at for r in stopped), rank_correlation_after(plan, finished, at), len(finished))
        for at in rungs(plan)
    )
    return EarlyStopping(len(stopped), saved, len(records) * tasks * M, found)


def rank_correlation_after(plan: Plan, finished: Sequence[TrialRecord], tasks: int) -> float:
    """Return Spearman's rank correlation of the objective after some tasks with the objective after all."""
    if len(finished) < 3:
        return float("nan")
    early, late = (
        [sum(values) / len(values) for values in metric_of_each(finished, plan.objectives[0], learned)]
        for learned in (tasks, len(plan.tasks))
    )
    return rank_correlation(early, late)


def describe_saving(found: EarlyStopping, pruner: str, trials: int) -> list[str]:
    """Describe in sentences the savings over some trials, and the reliability of early scores."""
    share = 100 * found.saved / found.total if found.total else 0
    lines = [
        f"Stopped early ({pruner}): {found.trials} of {trials} trials, which saved {found.saved} of {found.total} "
        f"task-seed trainings ({share:.0f} %)."
    ]
    for rung in found.rungs:
        correlation = "undefined" if math.isnan(rung.correlation) else f"{rung.correlation:.2f}"
        lines.append(
            f"After task {rung.tasks}: {rung.stopped} stopped; rank correlation (Spearman) of the scores there with "
            f"the final ones, over the {rung.finished} finished trials: {correlation}."
        )
    return lines
