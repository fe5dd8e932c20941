"""Watching Ray Tune: the record of each trial, kept as Ray reports it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

# Read when Ray Tune is imported.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1000000"  # `Watcher.room` says how many

from ray import tune
from ray.tune.experiment import Trial

from clsearch.tuning.continual import Decision
from clsearch.tuning.display import last_line
from clsearch.tuning.final import Final, accuracies_of, content_of, table_of
from clsearch.tuning.openings import Opening
from clsearch.tuning.plan import Plan
from clsearch.tuning.progress import ProgressLine
from clsearch.tuning.ranking import with_intransigence
from clsearch.tuning.records import Results, TrialRecord, metrics_of
from clsearch.tuning.tracking import Tracker
from clsearch.tuning.trainable import STATE_FILE

TABLE_SECONDS = 10.0
"""trials.csv is rewritten no more often than this while a study runs; each trial's own record is written at its end."""


class Watcher(tune.Callback):
    """Keeps the record of each trial as Ray reports it, and hands it on to results/, MLflow and the progress line.

    slots: how many trials the cluster holds at a time.
    """

    def __init__(self, plan: Plan, results: Results, tracker: Tracker, line: ProgressLine, slots: int = 1) -> None:
        self.plan = plan
        self.results = results
        self.tracker = tracker
        self.line = line
        self.slots = slots
        self.records: dict[str, TrialRecord] = {}
        self.written = 0.0
        self.tasks_decided = 0
        self.openings: tuple[Opening, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its Tuner for a restore that is never used."""
        return {}

    def configure(self, label: str, values: dict[str, float], algorithm: str | None) -> dict[str, Any]:
        """The config of a trial, flat, as ContinualTrainable reads it; its record begins here."""
        config = self.plan.trial_config(values, algorithm)
        number = None if algorithm else int(label.rpartition("_")[2])
        self.records[label] = TrialRecord(
            label=label,
            number=number,
            algorithm=config.algorithm,
            values=values,
            settings=config.flat(),
            seeds=self.plan.seeds,
            state="waiting",
        )
        return config.flat() | {
            "backbone": config.backbone,  # a function as itself
            "algorithm": config.algorithm,
            "label": label,
            "seeds": list(self.plan.seeds),
            "sequence": list(self.plan.tasks),
            "device": self.plan.device,
            "state_file": str(self.results.trial_folder(label) / STATE_FILE),
        }

    def room(self) -> bool:
        """Whether another trial may be made: one waits while the workers are busy, and one for each that is not there
        yet, so that all start at the same time. Ray Tune hands a trial whose worker is still starting to one that
        falls free, and ends the start; with trials shorter than a start (some 4 s) one worker would run them all.
        """
        states = [record.state for record in self.records.values()]
        return states.count("waiting") < max(1, self.slots - states.count("running"))

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._note(trial, lambda record: replace(record, state="running"))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._note(trial, lambda record: advanced(record, result), ended=bool(result.get("done")))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        reason = trial.last_result.get("failed", "")
        state = "failed" if reason else "finished"
        self._end(trial, state, reason)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = trial.get_pickled_error()
        reason = last_line(getattr(error, "cause", None) or error or "")
        self._end(trial, "failed", reason or "the worker died")

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
        self.results.write_csv("attempts.csv", decision.table())
        last, more = decision.attempts[-1], len(decision.kept) > self.tasks_decided
        said = f"task {last.task}/{len(self.plan.tasks)} · {len(decision.attempts)} attempts"
        self.line.say(said, moving=not more)
        if more:
            self.tasks_decided = len(decision.kept)
            self.tracker.decided(decision)

    def concluded(self, content: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """Keep what the search found."""
        self.results.write_json("best.json", content)
        self.tracker.concluded(content, metrics or {})

    def opened(self, opening: Opening) -> None:
        """Keep that test data is opened, before it is: final.json says so even where nothing comes of it."""
        self.openings = (*self.openings, opening)
        self.results.write_json("final.json", {"openings": [asdict(o) for o in self.openings], "rows": []})
        self.tracker.opened(self.openings)

    def evaluated(self, final: Final) -> None:
        """Keep what the final evaluation found."""
        self.results.write_json("final.json", content_of(final))
        self.results.write_csv("final.csv", table_of(final))
        self.results.write_csv("final_accuracy.csv", accuracies_of(final))
        self.tracker.evaluated(final)

    def _note(self, trial: Trial, change: Callable[[TrialRecord], TrialRecord], ended: bool = False) -> None:
        label = trial.config["label"]
        record = self.records[label] = change(self.records[label])
        if not ended:
            self.tracker.update(record)
            self.line.update(record)

    def _end(self, trial: Trial, state: str, reason: str) -> None:
        label = trial.config["label"]
        record = self.records[label] = replace(self.records[label], state=state, reason=reason)
        self.results.write_trial(record)
        self.write_tables(TABLE_SECONDS)
        self.tracker.update(record)
        self.line.update(record)
        (self.results.trial_folder(label) / STATE_FILE).unlink(missing_ok=True)


def advanced(record: TrialRecord, result: dict[str, Any]) -> TrialRecord:
    """A record with a step's result."""
    return replace(
        record,
        state="running",
        tasks_learned=result["tasks_learned"],
        seconds=result["seconds"],
        metrics=metrics_of(result),
        **result["record"],
    )
