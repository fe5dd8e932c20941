"""The time limit of a call: no trial begins that would end after it, and the rest of the study is allowed for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.formatting import format_time_spent
from clsearch.planning.plan import Plan
from clsearch.planning.targets import rows_of
from clsearch.records.trials import TrialRecord

AFTERWARDS, AFTERWARDS_PER_TRIAL, PER_TRIAL = 10.0, 0.04, 0.5
"""Seconds of the choice, the report and MLflow at the end, and more for each trial; of a trial beside its training.

Measured on two cores, with 6 and with 286 trials.
"""


@dataclass(frozen=True)
class TimeLimit:
    """The time limit of a call.

    Attributes:
        plan: The study.
        seconds: The limit.
        started: The time of `time.monotonic` at which the call began.
        probed: Seconds of training of a trial by a probe; 0 if trials have ended, or if it diverged.
    """

    plan: Plan
    seconds: float
    started: float
    probed: float = 0.0

    @property
    def passed(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self.started

    def has_room(self, records: Sequence[TrialRecord], busy: bool, slots: int) -> bool:
        """Return True if a trial that is asked for now would leave enough time for the rest of the study.

        Args:
            records: The trials and references so far.
            busy: True if the trial must wait for a worker.
            slots: Number of trials that train at a time.
        """
        one = (seconds_of_trial(records) or self.probed) + PER_TRIAL
        whole = one * self.plan.cohort
        waiting = whole / slots if busy else 0.0  # on average, as the others are somewhere in their training
        return self.passed + waiting + whole + self.seconds_after(records, one, slots) <= self.seconds

    def seconds_after(self, records: Sequence[TrialRecord], one: float, slots: int) -> float:
        """Estimate the time from the end of the last trial to the end of the study. one: seconds of a trial."""
        ended = {record.algorithm for record in records if record.number is None and record.ended}
        weights = weigh_algorithms(self.plan)
        references = sum(weights[name] for name in self.plan.references if name not in ended) * one
        return (
            (references + seconds_of_evaluation(self.plan, one)) / slots
            + AFTERWARDS
            + AFTERWARDS_PER_TRIAL * len(records)
        )


def seconds_of_trial(records: Sequence[TrialRecord]) -> float:
    """Return the mean seconds of the finished trials; of all ended ones if none finished; 0 if there are none."""
    trials = [record for record in records if record.number is not None and record.ended]
    seconds = [r.seconds for r in trials if r.state == "finished"] or [r.seconds for r in trials]
    return sum(seconds) / len(seconds) if seconds else 0.0


def weigh_algorithms(plan: Plan) -> dict[str, float]:
    """Return the training of the study's algorithm and of each reference, in trials: joint repeats earlier tasks."""
    T = len(plan.tasks)
    return {name: (T + 1) / 2 if name == "joint" else 1.0 for name in (plan.algorithm, *plan.references)}


def seconds_of_evaluation(plan: Plan, one: float) -> float:
    """Estimate the training time of the final evaluation, in proportion to seeds and tasks. one: seconds of a trial."""
    if not plan.options.final:
        return 0.0
    weights, seeds = weigh_algorithms(plan), len(plan.report_seeds) / len(plan.seeds)
    return sum(weights[name] * len(target.tasks) for target, name in rows_of(plan)) * one * seeds / len(plan.tasks)


def check_room(limit: TimeLimit, slots: int) -> None:
    """Refuse a time limit that no trial of a new study fits into, by the probe. Raises ConfigError."""
    if limit.probed and not limit.has_room((), False, slots):
        one = limit.probed + PER_TRIAL
        needed = limit.passed + one * limit.plan.cohort + limit.seconds_after((), one, slots)
        text = (
            f"hours: must hold a trial, the references, the final evaluation and the report, about "
            f"{format_time_spent(needed)} by a probe; got {format_time_spent(limit.seconds)}"
        )
        raise ConfigError([Refusal("hours-hold-a-trial", text)])
