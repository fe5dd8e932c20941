"""Stopping trials early: Optuna's pruners, asked after each learned task, and what that saved.

Trials are compared at the same number of learned tasks, by the mean accuracy over those tasks. Under a fixed seed task
1 is the same for every factor, temperature and p, so nobody is stopped before task 2. All state is in Optuna's storage.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import FrozenTrial, TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from clsearch.planning.options import Pruner
from clsearch.planning.plan import Plan
from clsearch.planning.protocols import GRACE
from clsearch.records.early_stopping import REDUCTION, asha_rungs

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
        if step is None or step not in asha_rungs(step):
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
