"""Record the events of Ray Tune's trials as the records of a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from clsearch.common.formatting import last_line
from clsearch.execution.messages import REQUEST, CohortRequest, TrialReport, replace_reports, reports_in
from clsearch.execution.resources import memory_advice
from clsearch.ray_runtime.supervision import SearchGuard
from clsearch.records.store import RecordStore
from clsearch.records.trials import TrialRecord, now

KILLED_FOR_MEMORY = "the node running low on memory"
"""Ray's wording."""


class Recorder(tune.Callback):
    """A callback of Ray Tune that updates the record of each trial.

    Args:
        store: The records.
        tasks: Number of tasks that a trial learns.
        guard: Ends the search.
        warn: Called with a line for the user.
    """

    def __init__(
        self, store: RecordStore, tasks: int, guard: SearchGuard, warn: Callable[[str], None] = lambda line: None
    ) -> None:
        self.store = store
        self.tasks = tasks
        self.guard = guard
        self.warn = warn

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray pickles its Tuner for a restore that is never used."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.guard.check()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Write the changed records. Workers have their next task by now and do not wait for it.

        Raises the OSError that must end the search; raised in another event, Ray would attribute it to the trial.
        """
        with self.guard.writing():
            self.store.write_changes()
        if self.store.error is not None:
            raise self.store.error
        self.guard.check()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._change_all(trial, lambda record: replace(record, state="running"))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        reports, going = reports_in(result), self._going(trial)
        for note in dict.fromkeys(f"{label}: {report.note}" for label, report in reports.items() if report.note):
            self.warn(note)
        with self.guard.writing():
            for label in [
                label for label in reports if label in going
            ]:  # others ended, but their worker has not noticed yet
                report = reports[label]
                if report.unwritable:  # the state file could not be written on the worker's node
                    self.store.fail(OSError(report.unwritable))
                self.store.change(label, partial(apply_report, report=report, time=now()))
                if report.done and not result.get("done"):  # the others continue
                    self._complete(label, report)
        # Ray Tune keeps the result and writes it repeatedly.
        replace_reports(result, [report.without_measurements() for report in reports.values()])

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Continue from the last task after the worker died, without configurations that have ended."""
        if self.guard.is_ending():
            return
        trial.config[REQUEST] = request_of(trial).only(self._going(trial))
        self._change_all(trial, lambda record: replace(record, state="waiting", restarts=record.restarts + 1))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        reports = reports_in(trial.last_result)
        with self.guard.writing():
            for label in self._going(trial):
                self._complete(label, reports.get(label))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record the failure of a trial; one whose worker died with Ray has not failed, and can be resumed."""
        if self.guard.is_ending():
            return
        error, text = trial.get_pickled_error(), read_errors(trial)
        cause = getattr(error, "cause", None) or error or text
        advice = memory_advice("cpu", 0, len(request_of(trial).trials)) if KILLED_FOR_MEMORY in text else ""
        reason = advice or last_line(cause) or "the worker died"
        with self.guard.writing():
            for label in self._going(trial):
                self.store.write_error(label, text)
                self.store.end_trial(label, "failed", reason)

    def _going(self, trial: Trial) -> list[str]:
        """Return the labels of a trial's configurations that have not ended."""
        return self.store.not_ended(request_of(trial).labels)

    def _change_all(self, trial: Trial, change: Callable[[TrialRecord], TrialRecord]) -> None:
        with self.guard.writing():
            for label in self._going(trial):
                self.store.change(label, change)

    def _complete(self, label: str, report: TrialReport | None) -> None:
        reason = "" if report is None else report.failed
        early = self.store.records[label].tasks_learned < self.tasks
        self.store.end_trial(label, "failed" if reason else "pruned" if early else "finished", reason)


def request_of(trial: Trial) -> CohortRequest:
    """Return the request of a trial of Ray Tune."""
    request: CohortRequest = trial.config[REQUEST]
    return request


def read_errors(trial: Trial) -> str:
    """Return Ray's text about every failure of a trial."""
    path = Path(trial.error_file) if trial.error_file else None
    return path.read_text(encoding="utf-8", errors="replace") if path is not None and path.exists() else ""


def apply_report(record: TrialRecord, report: TrialReport, time: int) -> TrialRecord:
    """Return a record updated with a step's report.

    Args:
        record: The record before.
        report: The report.
        time: When the driver received it, in milliseconds since 1970. Tasks that were never reported, because a driver
            was killed, get the same time.
    """
    return replace(
        record,
        state="running",
        tasks_learned=report.tasks_learned,
        reported=time,
        times=[*record.times, *[time] * (report.tasks_learned - len(record.times))],
        seconds=report.seconds,
        shared_seconds=report.shared_seconds,
        place=report.place,
        metrics=report.metrics,
        **report.measurements(),
    )
