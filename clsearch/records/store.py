"""The trials of a running study, in memory and in results/."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from clsearch.common.redaction import printable, redact
from clsearch.config.plain_values import Values
from clsearch.planning.plan import Plan
from clsearch.records.ranking import add_intransigence
from clsearch.records.seeds import join_seeds
from clsearch.records.trial_metrics import Measurements
from clsearch.records.trials import (
    SUGGESTED,
    Origin,
    TrialRecord,
    now,
    read_trials_and_damage,
    remove_state,
    with_curve,
)
from clsearch.records.writer import StudyWriter

TABLE_SECONDS = 10.0
"""Minimum interval between writes of trials.csv while a study runs; each trial's own record is written at its end."""


class RecordStore:
    """Keeps the record of each trial and writes it.

    Args:
        plan: The study.
        writer: Writes its folder.
        listeners: Called with each record after it is written; for example MLflow's sender and the progress line.
        on_end: Called after the record of a trial's end is written.

    Attributes:
        records: Label -> record.
        damaged: Records of an earlier process that cannot be read; their trials are trained again.
        error: Why records can no longer be written; None while they can.
    """

    def __init__(
        self,
        plan: Plan,
        writer: StudyWriter,
        listeners: Sequence[Callable[[TrialRecord], None]] = (),
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self.writer = writer
        self.listeners = listeners
        self.on_end = on_end
        self.earlier, self.damaged = read_trials_and_damage(writer.folder, plan.objectives)
        self.records = {label: record for label, record in self.earlier.items() if record.ended}
        self.changed: dict[str, TrialRecord] = {}
        self.tables_written = 0.0
        self.error: OSError | None = None

    @property
    def patience_from(self) -> int:
        """Number of ended trials from which on patience counts."""
        return self.writer.study.get("patience_from", 0)

    def begin_trial(
        self,
        label: str,
        number: int | None,
        values: Values,
        algorithm: str,
        settings: Mapping[str, Any],
        cohort: int,
        origin: Origin = SUGGESTED,
    ) -> None:
        """Begin the record of a trial that waits for a worker.

        Args:
            label: Its name.
            number: Optuna's number; None for a reference.
            values: Its searched hyperparameters.
            algorithm: Its algorithm.
            settings: All its settings, flat.
            cohort: Number of configurations that train together, including itself.
            origin: Why it is tried.
        """
        earlier = self.earlier.get(label)
        same = earlier is not None and earlier.values == values
        self.records[label] = TrialRecord(
            label=label,
            number=number,
            algorithm=algorithm,
            values=dict(values),
            settings=dict(settings),
            seeds=self.plan.seeds,
            state="waiting",
            times=earlier.times if earlier is not None and same else [],
            tables=earlier.tables if earlier is not None and same else {},
            reported=now(),
            cohort=cohort,
            origin=origin.why,
            given=list(origin.given),
        )

    def not_ended(self, labels: Iterable[str]) -> list[str]:
        """Return the labels of trials that have not ended."""
        return [label for label in labels if not self.records[label].ended]

    def change(self, label: str, change: Callable[[TrialRecord], TrialRecord]) -> None:
        """Change a record; `write_changes` writes it."""
        self.records[label] = self.changed[label] = change(self.records[label])

    def write_changes(self) -> None:
        """Write the changed records."""
        while self.changed:
            _, record = self.changed.popitem()
            if record.state != "waiting":
                self._write(partial(self.writer.write_status, record))
            self._notify(record)

    def end_trial(self, label: str, state: str, reason: str) -> None:
        """Write a trial's end at once. state: finished, pruned or failed. reason: why; "" if it finished."""
        reason = printable(redact(reason))
        record = self.records[label] = replace(self.records[label], state=state, reason=reason)
        self.changed.pop(label, None)
        self._write(partial(self._write_end, record))
        self._notify(record)

    def join_seeds(self, label: str, more: Measurements, seeds: Sequence[int]) -> None:
        """Add the measurements on further seeds to an ended trial. record.json comes last: then all is there."""
        record = self.writer.write_group(with_curve(self.writer.folder, self.records[label]), more, seeds)
        joined = replace(join_seeds(record, more, seeds), columns=[], curve=[], epochs=[], reported=now())
        self._write_joined(joined)

    def note_failed_seeds(self, label: str, reason: str) -> None:
        """Note why an ended trial has no further seeds."""
        self._write_joined(replace(self.records[label], reason=printable(redact(reason))))

    def _write_joined(self, record: TrialRecord) -> None:
        self.records[record.label] = self.writer.write_trial(record)
        self.write_tables(TABLE_SECONDS)
        self.on_end()
        self._notify(self.records[record.label])

    def write_error(self, label: str, text: str) -> None:
        """Write the full error of a failed trial."""
        self._write(partial(self.writer.write_error, label, text))

    def fail(self, error: OSError) -> None:
        """Stop writing, because records cannot be written. The written records can be resumed."""
        self.error = self.error or error

    def leave_unfinished(self) -> list[TrialRecord]:
        """Write and return the trials that an interrupt cut off; their checkpoints stay."""
        cut_off = [self._keep_furthest(r) for r in self.records.values() if r.state in ("waiting", "running")]
        return self._write_again([replace(record, state="unfinished", reason="interrupted") for record in cut_off])

    def add_intransigence(self) -> list[TrialRecord]:
        """Add the metric that needs the joint reference to every finished record; return the changed records."""
        return self._write_again(add_intransigence(list(self.records.values())))

    def write_tables(self, apart: float = 0.0) -> None:
        """Write trials.csv and references.csv, unless they were written less than `apart` seconds ago."""
        clock = time.monotonic()
        if clock - self.tables_written < apart:
            return
        self.tables_written = clock
        self.writer.write_table("trials", self.trials())
        self.writer.write_table("references", self.references())

    def trials(self) -> list[TrialRecord]:
        """Return the trials so far, in Optuna's order."""
        return sorted((r for r in self.records.values() if r.number is not None), key=lambda r: r.label)

    def references(self) -> list[TrialRecord]:
        """Return the references so far, in the study's order."""
        own = {r.algorithm: r for r in self.records.values() if r.number is None}
        return [own[name] for name in self.plan.references if name in own]

    def _keep_furthest(self, record: TrialRecord) -> TrialRecord:
        """Return a trial's record, or that of an earlier process if this one has heard less of the trial."""
        earlier = self.earlier.get(record.label)
        behind = (
            earlier is not None and earlier.values == record.values and earlier.tasks_learned > record.tasks_learned
        )
        return earlier if behind and earlier is not None else record

    def _write_again(self, records: list[TrialRecord]) -> list[TrialRecord]:
        for record in records:
            self.records[record.label] = self.writer.write_trial(record)
        return records

    def _write_end(self, record: TrialRecord) -> None:
        self.records[record.label] = self.writer.write_trial(record)
        self.write_tables(TABLE_SECONDS)
        remove_state(self.writer.trial_folder(record.label))
        self.on_end()

    def _write(self, write: Callable[[], None]) -> None:
        """Write, unless an earlier write failed: a trial must not end here before it ends in Optuna."""
        try:
            if self.error is None:
                write()
        except OSError as error:
            self.fail(error)

    def _notify(self, record: TrialRecord) -> None:
        for listener in self.listeners:
            listener(record)
