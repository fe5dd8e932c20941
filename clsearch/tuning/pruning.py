"""Stopping trials early: Optuna's pruners, asked after each learned task, and what that saved.

Trials are compared at the same number of learned tasks, by the mean accuracy over those tasks. Under a fixed seed task
1 is the same for every factor, temperature and p, so nobody is stopped before task 2. All state is in Optuna's storage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import FrozenTrial, TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from clsearch.core.statistics import rank_correlation
from clsearch.tuning.options import Pruner
from clsearch.tuning.plan import Plan
from clsearch.tuning.protocols import GRACE
from clsearch.tuning.ranking import per_seed
from clsearch.tuning.records import TrialRecord

REDUCTION = 3
"""Of the trials that reach a rung of asha, one in so many goes on."""

STARTUP = 5
"""Trials that must finish before median stops one."""


class MedianAtTask(BasePruner):
    """Stops a trial that is worse than the median of the finished ones at the same task.

    Optuna's MedianPruner compares a trial's best value so far. A mean over tasks only falls here, so that would be the
    one after task 1, and nobody would ever be stopped.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        step = trial.last_step
        if step is None or step < GRACE or len(finished) < STARTUP:
            return False
        others = [other.intermediate_values[step] for other in finished if step in other.intermediate_values]
        sign = 1 if study.direction is optuna.study.StudyDirection.MAXIMIZE else -1
        return bool(others) and sign * trial.intermediate_values[step] < sign * median(others)


class HalvingAtTask(BasePruner):
    """Asynchronous successive halving (Li et al. 2020, algorithm 2): of the trials that have reached a rung, the best
    1 / REDUCTION go on, and the best of fewer than REDUCTION.

    Optuna's own lets a trial into its rung as it is asked about, so of those that train together, which are known all
    at once, the first would always go on.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or step not in halvings(step):
            return False
        sign = 1 if study.direction is optuna.study.StudyDirection.MAXIMIZE else -1
        reached = [t.intermediate_values for t in study.get_trials(deepcopy=False) if step in t.intermediate_values]
        scores = sorted((sign * values[step] for values in reached), reverse=True)
        return bool(sign * trial.intermediate_values[step] < scores[max(1, len(scores) // REDUCTION) - 1])


def pruner_of(plan: Plan) -> BasePruner:
    """The pruner of a plan."""
    match plan.options.pruner:
        case Pruner.ASHA:
            return HalvingAtTask()
        case Pruner.MEDIAN:
            return MedianAtTask()
    return NopPruner()


def rungs(plan: Plan) -> list[int]:
    """After how many tasks trials are compared."""
    tasks = len(plan.tasks)
    if plan.options.pruner is Pruner.ASHA:
        return halvings(tasks - 1)
    return list(range(GRACE, tasks)) if plan.options.pruner is Pruner.MEDIAN else []


def halvings(tasks: int) -> list[int]:
    """The rungs of asha up to a number of tasks."""
    return [rung for n in range(tasks) if (rung := GRACE * REDUCTION**n) <= tasks]


class PruningScheduler(FIFOScheduler):
    """Asks after each task whether a trial is to be stopped: stop(trial_id, result). Trials begin in order, but a
    worker that falls free takes none whose own worker is starting. slots: how many trials the cluster holds at a time.
    """

    def __init__(self, stop: Callable[[str, dict[str, Any]], bool], slots: int = 1) -> None:
        super().__init__()
        self.stop = stop
        self.slots = slots

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """For a free worker: the first trial that waits, after those whose workers start in the slots that are left.
        Ray Tune's own would take the first, and so end the start of its worker; where trials are shorter than a start
        (some 4 s) one worker would run nearly all.
        """
        trials = tune_controller.get_trials()
        waiting = [trial for trial in trials if trial.status == Trial.PENDING]
        starting = self.slots - 1 - sum(trial.status == Trial.RUNNING for trial in trials)
        return waiting[max(0, min(starting, len(waiting) - 1))] if waiting else None

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        stop = self.stop(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its Tuner for a restore that is never used."""
        return {}


@dataclass(frozen=True)
class Rung:
    """Where trials were compared. stopped: how many there. correlation: Spearman's rank correlation of the scores there
    with the scores after the last task, over the `finished` trials; NaN for fewer than three.
    """

    tasks: int
    stopped: int
    correlation: float
    finished: int


@dataclass(frozen=True)
class Pruned:
    """What stopping early did. saved: task-trainings that were not made, of `total`."""

    trials: int
    saved: int
    total: int
    rungs: tuple[Rung, ...]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Pruned:
        """What best.json has of it; a correlation that is NaN is null there."""
        rungs = [
            Rung(**rung | {"correlation": float("nan" if (found := rung["correlation"]) is None else found)})
            for rung in content["rungs"]
        ]
        return cls(**content | {"rungs": tuple(rungs)})


def pruned_of(plan: Plan, records: Sequence[TrialRecord]) -> Pruned | None:
    """What stopping early did; None where it was not asked for."""
    if plan.options.pruner is Pruner.NONE or plan.protocol.value == "continual":
        return None
    stopped = [r for r in records if r.state == "pruned"]
    finished = [r for r in records if r.state == "finished"]
    tasks, M = len(plan.tasks), len(plan.seeds)
    saved = sum((tasks - r.tasks_learned) * M for r in stopped)
    found = tuple(
        Rung(at, sum(r.tasks_learned == at for r in stopped), correlation(plan, finished, at), len(finished))
        for at in rungs(plan)
    )
    return Pruned(len(stopped), saved, len(records) * tasks * M, found)


def correlation(plan: Plan, finished: Sequence[TrialRecord], tasks: int) -> float:
    """Spearman's rank correlation of the objective after some tasks with the one after all."""
    if len(finished) < 3:
        return float("nan")
    early, late = (
        [sum(values) / len(values) for r in finished if (values := per_seed(r, plan.objectives[0], learned))]
        for learned in (tasks, len(plan.tasks))
    )
    return rank_correlation(early, late)


def saving_of(found: Pruned, pruner: str, trials: int) -> list[str]:
    """What stopping early saved over some trials, and whether early scores can be trusted, in sentences."""
    share = 100 * found.saved / found.total if found.total else 0
    lines = [
        f"Stopped early ({pruner}): {found.trials} of {trials} trials, which saved {found.saved} of {found.total} "
        f"task-trainings ({share:.0f} %)."
    ]
    for rung in found.rungs:
        told = "too few finished to tell" if math.isnan(rung.correlation) else f"{rung.correlation:.2f}"
        lines.append(
            f"After task {rung.tasks}: {rung.stopped} stopped; rank correlation (Spearman) of the scores there with "
            f"the final ones, over the {rung.finished} finished trials: {told}."
        )
    return lines
