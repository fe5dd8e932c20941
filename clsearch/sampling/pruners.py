"""Early stopping: Optuna's pruners, asked after each learned task.

Trials are compared at the same number of learned tasks, by the mean accuracy over those tasks. With a fixed seed, task
1 is the same for every factor, temperature and p, so no trial is stopped before task 2. All state is in Optuna's
storage.
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
    """Stop a trial that is worse than the median of the finished trials at the same task.

    Optuna's MedianPruner compares a trial's best value so far. The mean over tasks only falls here, so its best value
    is the one after task 1, and no trial would ever be stopped.
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
    """Asynchronous successive halving (Li et al. 2020, algorithm 2): of the trials that have reached a rung, the best 1
    / REDUCTION continue; of fewer than REDUCTION trials, the best one.

    Optuna's pruner adds a trial to its rung when it is asked about it, so the first of several trials that train
    together would always continue, although all their values are known.
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
    """Make the pruner of a plan; one that the script made is used as it is."""
    if not isinstance(plan.options.pruner, Pruner):
        made: BasePruner = plan.options.pruner
        return made
    match plan.options.pruner:
        case Pruner.ASHA:
            return HalvingAtTask()
        case Pruner.MEDIAN:
            return MedianAtTask()
    return NopPruner()


class PruningScheduler(FIFOScheduler):
    """Ask after each task if a trial must stop.

    Trials begin in order, but a free worker takes no trial whose own worker is starting.

    Args:
        stop: Called with (trial_id, result); returns True to stop the trial.
        slots: Number of trials that the cluster holds at a time.
    """

    def __init__(self, stop: Callable[[str, dict[str, Any]], bool], slots: int = 1) -> None:
        super().__init__()
        self.stop = stop
        self.slots = slots

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Choose a trial for a free worker: the first one that waits, after those whose workers are starting in the
        remaining slots.

        Ray Tune would choose the first one and cancel the start of its worker. If trials are shorter than a start
        (about 4 s), one worker would run nearly all of them.
        """
        trials = tune_controller.get_trials()
        waiting = [trial for trial in trials if trial.status == Trial.PENDING]
        starting = self.slots - 1 - sum(trial.status == Trial.RUNNING for trial in trials)
        return waiting[max(0, min(starting, len(waiting) - 1))] if waiting else None

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        stop = self.stop(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray pickles its Tuner for a restore that is never used."""
        return {}
