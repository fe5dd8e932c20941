"""Watching Ray Tune: the record of each trial, kept as Ray reports it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

# Read when Ray Tune is imported.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1000000"  # `Watcher.room` says how many

from ray import tune
from ray.tune.experiment import Trial

from clsearch.common.formatting import last_line
from clsearch.execution.messages import COHORT, labels_in, results_in
from clsearch.execution.resources import remedy
from clsearch.planning.plan import Plan
from clsearch.records.attempts import ATTEMPTS, Decision
from clsearch.records.evaluation import Final, accuracies_of, content_of, table_of
from clsearch.records.ranking import with_intransigence
from clsearch.records.study_file import FINAL
from clsearch.records.test_ledger import Opening
from clsearch.records.trials import PREFIXES, STATE_FILE, Results, TrialRecord, metrics_of, now, read_trials
from clsearch.reporting.progress import ProgressLine
from clsearch.tracking.sender import Tracker

TABLE_SECONDS = 10.0
"""trials.csv is rewritten no more often than this while a study runs; each trial's own record is written at its end."""


KILLED_FOR_MEMORY = "the node running low on memory"
"""Ray's words."""


class Watcher(tune.Callback):
    """Keeps the record of each trial as Ray reports it, and hands it on to results/, MLflow and the progress line.

    slots: how many trials the cluster holds at a time. kept: told when a trial's record is there.
    """

    def __init__(
        self,
        plan: Plan,
        results: Results,
        tracker: Tracker,
        line: ProgressLine,
        slots: int = 1,
        kept: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self.results = results
        self.tracker = tracker
        self.line = line
        self.slots = slots
        self.kept = kept
        self.earlier = read_trials(results.folder)
        self.records = {label: record for label, record in self.earlier.items() if record.ended}
        self.groups: list[list[str]] = []
        self.written = 0.0
        self.tasks_decided = 0
        self.noted: dict[str, TrialRecord] = {}
        self.trouble: OSError | None = None
        self.openings: tuple[Opening, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its Tuner for a restore that is never used."""
        return {}

    def configure(self, asked: Mapping[str, dict[str, float]], algorithm: str | None) -> dict[str, Any]:
        """The config of a trial of Ray Tune, flat, as ContinualTrainable reads it, of the configurations that it
        trains: label -> searched values. Their records begin here.
        """
        self.groups.append(list(asked))
        for label, values in asked.items():
            self.records[label] = self._begun(label, values, algorithm, len(asked))
        config = self.plan.trial_config(next(iter(asked.values())), algorithm)
        members = [
            {"label": label, "values": values, "state_file": self._state(label)} for label, values in asked.items()
        ]
        own = members[0] if len(asked) == 1 else {"label": f"{members[0]['label']}+{len(asked) - 1}", COHORT: members}
        return config.flat() | {
            "backbone": config.backbone,  # a function as itself
            "algorithm": config.algorithm,
            "seeds": list(self.plan.seeds),
            "sequence": list(self.plan.tasks),
            "device": self.plan.device,
            "prefixes": None if "learning_rate" in self.plan.space else str(self.results.folder.parent / PREFIXES),
            **{name: value for name, value in own.items() if name != "values"},
        }

    def _begun(self, label: str, values: dict[str, float], algorithm: str | None, together: int) -> TrialRecord:
        config, begun = self.plan.trial_config(values, algorithm), self.earlier.get(label)
        return TrialRecord(
            label=label,
            number=None if algorithm else int(label.rpartition("_")[2]),
            algorithm=config.algorithm,
            values=values,
            settings=config.flat(),
            seeds=self.plan.seeds,
            state="waiting",
            times=begun.times if begun is not None and begun.values == values else [],
            told=now(),
            cohort=together,
        )

    def _state(self, label: str) -> str:
        return str(self.results.trial_folder(label) / STATE_FILE)

    def recall(self) -> None:
        """Begin with what an earlier process brought to its end."""
        self.results.tidy(self.records)
        self.line.restore(self.trials())
        for record in self.records.values():
            self.tracker.update(record)

    def room(self) -> bool:
        """Whether another trial of Ray Tune may be made: one for each worker that is not there yet, so that all start
        at the same time, and one that waits while all are busy, as Ray Tune ends a worker that falls free while none
        waits for it. No more: the later a trial is asked for, the more results it follows from.
        """
        self.groups = [own for own in self.groups if not all(self.records[label].ended for label in own)]
        states = [{self.records[label].state for label in group} for group in self.groups]
        waiting = sum("waiting" in own for own in states)
        return waiting < max(1, self.slots - sum("running" in own for own in states))

    def halt(self, error: OSError) -> None:
        """End the search after this step, because its record can't be written: what is there can be gone on with. Ray
        takes an error in a callback for the trial's, so it is raised at the end of the step.
        """
        self.trouble = self.trouble or error

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Workers have their next task by now, so they do not wait for what is written here."""
        while self.noted:
            _, record = self.noted.popitem()
            if record.state != "waiting":
                self._write(partial(self.results.note_trial, record))
            self.tracker.update(record)
            self.line.update(record)
        if self.trouble is not None:
            raise self.trouble

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        for label in self._going(trial):
            self._note(label, lambda record: replace(record, state="running"))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        going = self._going(trial)
        for label, own in results_in(result, labels_in(trial.config)).items():
            if label not in going:  # its end was not seen in time by its worker
                continue
            if "unwritable" in own:  # of the trial's own state, on whichever node it is
                self.halt(OSError(own["unwritable"]))
            self._note(label, partial(advanced, result=own, time=now()))
            own.pop("record")  # Ray Tune keeps the rest, and writes it again and again
            if own.get("done") and not result.get("done"):  # the others go on
                self._complete(label, own)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Its worker died; another one goes on from its last task, without those that have ended."""
        going = self._going(trial)
        if COHORT in trial.config:
            trial.config[COHORT] = [own for own in trial.config[COHORT] if own["label"] in going]
        for label in going:
            self._note(label, lambda record: replace(record, state="waiting", restarts=record.restarts + 1))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        told = results_in(trial.last_result, labels_in(trial.config))
        for label in self._going(trial):
            self._complete(label, told.get(label, {}))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error, told = trial.get_pickled_error(), errors_of(trial)
        said = getattr(error, "cause", None) or error or told
        short = remedy("cpu", 0, len(labels_in(trial.config))) if KILLED_FOR_MEMORY in told else ""
        reason = short or last_line(said) or "the worker died"
        for label in self._going(trial):
            self._write(partial(self.results.write_error, label, told))
            self._end(label, "failed", reason)

    def _going(self, trial: Trial) -> list[str]:
        """The labels of a trial's configurations that have not ended."""
        return [label for label in labels_in(trial.config) if not self.records[label].ended]

    def _complete(self, label: str, result: dict[str, Any]) -> None:
        reason = result.get("failed", "")
        early = self.records[label].tasks_learned < len(self.plan.tasks)
        self._end(label, "failed" if reason else "pruned" if early else "finished", reason)

    def leave_unfinished(self) -> None:
        """Record the trials that an interrupt cut off; their checkpoints stay."""
        for record in list(self.records.values()):
            if record.state in ("waiting", "running"):
                ended = self.records[record.label] = replace(record, state="unfinished", reason="interrupted")
                self.results.write_trial(ended)
                self.tracker.update(ended)

    def write_tables(self, apart: float = 0.0) -> None:
        """Write trials.csv and references.csv, unless that was done less than `apart` seconds ago."""
        now = time.monotonic()
        if now - self.written < apart:
            return
        self.written = now
        self.results.write_table("trials", self.trials())
        self.results.write_table("references", self.references())

    def trials(self) -> list[TrialRecord]:
        """The trials so far, in Optuna's order."""
        return sorted((r for r in self.records.values() if r.number is not None), key=lambda r: r.label)

    def references(self) -> list[TrialRecord]:
        """The references so far, in the order that the study names them."""
        own = {r.algorithm: r for r in self.records.values() if r.number is None}
        return [own[name] for name in self.plan.references if name in own]

    def add_intransigence(self) -> None:
        """Add the metric that needs the joint reference to every finished record."""
        for record in with_intransigence(list(self.records.values())):
            self.records[record.label] = record
            self.results.write_trial(record)
            self.tracker.add(record, "intransigence")

    def decided(self, decision: Decision) -> None:
        """Keep every attempt of the continual protocol."""
        self.results.write_csv(ATTEMPTS, decision.table(self.plan.seeds))
        last, more = decision.attempts[-1], len(decision.kept) > self.tasks_decided
        said = f"task {last.task}/{len(self.plan.tasks)} · {len(decision.attempts)} attempts"
        self.line.show_step(said, moving=not more)
        if more:
            self.tasks_decided = len(decision.kept)
            self.tracker.decided(decision)
            self.kept()

    def concluded(self, content: dict[str, Any], when: int) -> None:
        """Keep what the search found. when: it was known, in milliseconds since 1970."""
        self.results.write_json("best.json", content)
        self.tracker.concluded(content, when)

    def opened(self, opening: Opening) -> None:
        """Keep that test data is opened, before it is: final.json says so even where nothing comes of it."""
        self.openings = (*self.openings, opening)
        self.results.write_json(FINAL, {"openings": [asdict(o) for o in self.openings], "rows": []})
        self.tracker.opened(self.openings)

    def evaluated(self, final: Final) -> None:
        """Keep what the final evaluation found."""
        self.results.write_csv("final.csv", table_of(final))
        self.results.write_csv("final_accuracy.csv", accuracies_of(final))
        self.results.write_json(FINAL, content_of(final))  # last: with it, all is there
        self.tracker.evaluated(final)

    def _note(self, label: str, change: Callable[[TrialRecord], TrialRecord]) -> None:
        self.records[label] = self.noted[label] = change(self.records[label])

    def _end(self, label: str, state: str, reason: str) -> None:
        record = self.records[label] = replace(self.records[label], state=state, reason=reason)
        self.noted.pop(label, None)
        self._write(partial(self._write_end, record))
        self.tracker.update(record)
        self.line.update(record)

    def _write_end(self, record: TrialRecord) -> None:
        self.results.write_trial(record)
        self.write_tables(TABLE_SECONDS)
        (self.results.trial_folder(record.label) / STATE_FILE).unlink(missing_ok=True)
        self.kept()

    def _write(self, write: Callable[[], None]) -> None:
        """Write; nothing is written after what could not be, so that a trial whose end is unknown to Optuna is not
        recorded as ended.
        """
        try:
            if self.trouble is None:
                write()
        except OSError as error:
            self.halt(error)


def errors_of(trial: Trial) -> str:
    """What Ray says of every failure of a trial, where it has said it."""
    path = Path(trial.error_file) if trial.error_file else None
    return path.read_text(encoding="utf-8", errors="replace") if path is not None and path.exists() else ""


def advanced(record: TrialRecord, result: dict[str, Any], time: int) -> TrialRecord:
    """A record with a step's result, told at a time; of tasks that nobody was told of, as those of a driver that was
    killed, the time is the same.
    """
    learned = result["tasks_learned"]
    return replace(
        record,
        state="running",
        tasks_learned=learned,
        told=time,
        times=[*record.times, *[time] * (learned - len(record.times))],
        seconds=result["seconds"],
        shared_seconds=result["shared_seconds"],
        place=result.get("place", ""),
        metrics=metrics_of(result),
        **result["record"],
    )
