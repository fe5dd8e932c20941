"""Run a study's trials: make their requests, and limit how many wait for a worker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clsearch.config.plain_values import Values
from clsearch.config.space_reading import count_values
from clsearch.execution.messages import REQUEST, CohortRequest, TrialRequest
from clsearch.execution.structure import Suggestion
from clsearch.execution.time_limit import TimeLimit
from clsearch.methods.registry import fields_of
from clsearch.planning.plan import Plan
from clsearch.ray_runtime.supervision import SearchGuard
from clsearch.records.search_end import describe_patience_end, describe_time_end, is_out_of_patience
from clsearch.records.store import RecordStore
from clsearch.records.study_file import FIRST_TASKS
from clsearch.records.trials import STATE_FILE, SUGGESTED, Origin


class StudyHost:
    """A study's host for its searcher, see `searcher.TrialHost`.

    Args:
        plan: The study.
        store: Its records, which show the running trials.
        guard: Ends the search.
        slots: Number of trials of Ray Tune that the cluster holds at a time.
        limit: The time limit of this call, if it has one.
    """

    def __init__(
        self, plan: Plan, store: RecordStore, guard: SearchGuard, slots: int = 1, limit: TimeLimit | None = None
    ) -> None:
        self.plan = plan
        self.store = store
        self.guard = guard
        self.slots = slots
        self.limit = limit
        self.out_of_time = False
        self.groups: list[list[str]] = []

    def make_trial_config(
        self, asked: Mapping[str, Suggestion], algorithm: str | None, origins: Mapping[str, Origin] | None = None
    ) -> dict[str, Any]:
        """Begin the records of configurations, and make the request for a worker.

        Args:
            asked: Label -> what was suggested.
            algorithm: The reference's; None for the study's own.
            origins: Label -> why it is tried, of those that the sampler did not suggest.
        """
        self.groups.append(list(asked))
        trials = []
        for label, one in asked.items():
            origin, config = (origins or {}).get(label, SUGGESTED), one.config
            number = None if algorithm else number_in(label)
            self.store.begin_trial(
                label, number, one.values, config.algorithm, config.flat(), cohort=len(asked), origin=origin
            )
            trials.append(TrialRequest(label, config, self.store.writer.trial_folder(label) / STATE_FILE))
        shares_first_task = all(may_repeat_first_task(self.plan, one.values) for one in asked.values())
        request = CohortRequest(
            trials=tuple(trials),
            seeds=self.plan.seeds,
            tasks=self.plan.tasks,
            device=self.plan.device,
            first_tasks=self.plan.folder.parent / FIRST_TASKS if shares_first_task else None,
        )
        return {REQUEST: request}

    def record_refusal(
        self, label: str, values: Values, reason: str, origins: Mapping[str, Origin] | None = None
    ) -> None:
        """Record a trial whose configuration is refused, see `searcher.TrialHost`."""
        shared = {key: value for key, value in self.plan.config.flat().items() if key not in self.plan.space}
        origin = (origins or {}).get(label, SUGGESTED)
        with self.guard.writing():
            self.store.begin_trial(
                label, number_in(label), values, self.plan.algorithm, shared | dict(values), cohort=1, origin=origin
            )
            self.store.end_trial(label, "failed", reason)

    def has_capacity(self) -> bool:
        """Return True if another trial of Ray Tune can be made.

        There is one for each worker that does not exist yet, so that all start at the same time, and one that waits
        while all are busy, because Ray Tune ends a free worker if no trial waits. More would hurt: the later a trial is
        suggested, the more results it can use.
        """
        self.groups = [group for group in self.groups if self.store.not_ended(group)]
        states = [{self.store.records[label].state for label in group} for group in self.groups]
        waiting = sum("waiting" in own for own in states)
        return waiting < max(1, self.slots - sum("running" in own for own in states))

    def has_time(self) -> bool:
        """Return True if a trial that begins now ends in time. Once one would not, none begins."""
        if self.limit is not None and not self.out_of_time:
            busy = sum(bool(self.store.not_ended(group)) for group in self.groups) >= self.slots
            self.out_of_time = not self.limit.has_room([*self.store.records.values()], busy, self.slots)
        return not self.out_of_time

    def is_out_of_patience(self) -> bool:
        """Return True if enough ended trials in a row did not improve the best."""
        return is_out_of_patience(self.plan, self.store.trials(), self.store.patience_from)

    def describe_end(self) -> str:
        """Describe why the search ended before all trials; "" if it did not."""
        records = self.store.trials()
        if self.limit is not None and self.out_of_time:
            return describe_time_end(self.plan, records, self.limit.passed, self.limit.seconds)
        return describe_patience_end(self.plan, records, self.store.patience_from)

    def is_ending(self) -> bool:
        """Return True if the search ends or Ray died: trials are cut off, and none fails."""
        return self.guard.is_ending()

    def abort(self, error: OSError) -> None:
        """End the search after this step of Ray Tune (`Recorder.on_step_end`)."""
        self.store.fail(error)


def number_in(label: str) -> int:
    """Return Optuna's number of a trial from its label."""
    return int(label.rpartition("_")[2])


def may_repeat_first_task(plan: Plan, values: Values) -> bool:
    """Return True if another trial probably trains the first task with the same settings, so that it is worth keeping.

    Of what is searched, only settings that every algorithm has act on it. A learning rate from a range is that of one
    trial alone; an optimizer from two is that of many.
    """
    shared = [plan.space[name] for name in values if name in fields_of("finetuning")]
    points = plan.options.grid_points if plan.options.sampler == "grid" else math.inf
    combinations = math.prod(min(count_values(domain), points if domain.numeric else math.inf) for domain in shared)
    return not shared or 2 * combinations <= plan.trials
