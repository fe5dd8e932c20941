"""Carrying out a plan: Ray Tune executes, this process keeps the record."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

# Read when Ray Tune is imported.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import pandas as pd
import ray
from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console

from clsearch.core.datasets import Data
from clsearch.tuning import preflight, summary
from clsearch.tuning.figures import response
from clsearch.tuning.plan import Plan
from clsearch.tuning.progress import ProgressLine
from clsearch.tuning.records import Results, TrialRecord, metrics_of
from clsearch.tuning.search import OBJECTIVE, OptunaSearcher, open_storage
from clsearch.tuning.selection import Ranking, best_content, rank, with_intransigence
from clsearch.tuning.tracking import Tracker, quiet
from clsearch.tuning.trainable import STATE_FILE, TRAINABLES

TABLE_SECONDS = 10.0
"""trials.csv is rewritten no more often than this while a study runs; each trial's own record is written at its end."""


@dataclass(frozen=True)
class StudyResult:
    """What a study found. interrupted: it was stopped before all its trials were done."""

    plan: Plan
    records: list[TrialRecord]
    references: list[TrialRecord]
    ranking: Ranking
    interrupted: bool

    @property
    def best(self) -> TrialRecord | None:
        """The finished trial with the highest average accuracy."""
        return self.ranking.best

    @property
    def trials(self) -> pd.DataFrame:
        """results/<study>/trials.csv."""
        return pd.read_csv(self.plan.folder / "trials.csv")

    @property
    def exit_code(self) -> int:
        """0 done; 1 no trial finished; 130 interrupted."""
        return 130 if self.interrupted else 0 if self.best is not None else 1


def execute(plan: Plan, take: Callable[[], Data]) -> StudyResult:
    """Run a checked plan to its end. take: gives up the data of its benchmark, which nobody else then holds.

    Raises ConfigError where the cluster cannot hold a trial.
    """
    console = Console(stderr=True)
    line = ProgressLine(console, plan.trials)
    with line.shown():
        line.say("starting Ray")
        with ray_session(plan):
            results = Results(plan)
            results.begin()
            quiet()
            tracker = Tracker(plan, preflight.tracking_uri(plan), partial(console.print, markup=False))
            tracker.begin()
            watcher = Watcher(plan, results, tracker, line)
            search(plan, take, watcher)
            result = conclude(plan, watcher, line)
    summary.show(Console(), plan, result.ranking, result.references, result.records, tracker.uri)
    return result


@contextmanager
def ray_session(plan: Plan) -> Iterator[None]:
    """Use the Ray that this process is connected to, join the cluster that RAY_ADDRESS names, or start one here.

    What was not started here is not shut down here.
    """
    connected = ray.is_initialized()
    if not connected:
        level = logging.INFO if plan.options.verbose else logging.ERROR
        own: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"address": "local", "include_dashboard": False}
        ray.init(logging_level=level, log_to_driver=plan.options.verbose, **own)
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]
        nodes = [(n["NodeManagerHostname"], n["Resources"].get("CPU", 0), n["Resources"].get("GPU", 0)) for n in alive]
        preflight.check_resources(plan, [preflight.Node(*node) for node in nodes])
        yield
    finally:
        if not connected:
            ray.shutdown()


def search(plan: Plan, take: Callable[[], Data], watcher: Watcher) -> None:
    """Let Ray Tune run the references and the trials that Optuna asks for.

    The data goes to Ray's object store, where all workers of a node read the one copy. It stays there until this
    process leaves Ray: Ray cannot see when the last trainable that names it is gone.
    """
    options = plan.options
    searcher = OptunaSearcher(
        plan,
        open_storage(plan),
        plan.references,
        watcher.configure,
    )
    resources = {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(TRAINABLES[plan.algorithm], data=take()), resources),
        tune_config=tune.TuneConfig(
            # No metric is named to Ray: it would end the study over a trial that diverges before it has one.
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=options.max_concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config["label"],
            trial_dirname_creator=lambda trial: trial.config["label"],
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(plan.folder),
            callbacks=[watcher],
            verbose=3 if options.verbose else 0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    with interrupts_restored():
        tuner.fit()


@contextmanager
def interrupts_restored() -> Iterator[None]:
    """What Ctrl-C does afterwards is what it did before: Ray Tune leaves its own handler, which swallows one."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


class Watcher(tune.Callback):
    """Keeps the record of each trial as Ray reports it, and hands it on to results/, MLflow and the progress line."""

    def __init__(self, plan: Plan, results: Results, tracker: Tracker, line: ProgressLine) -> None:
        self.plan = plan
        self.results = results
        self.tracker = tracker
        self.line = line
        self.records: dict[str, TrialRecord] = {}
        self.written = 0.0

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
            "device": self.plan.device,
            "state_file": str(self.results.trial_folder(label) / STATE_FILE),
        }

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
        reason = str(getattr(error, "cause", None) or error or "the worker died").strip().splitlines()
        self._end(trial, "failed", reason[-1] if reason else "the worker died")

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


def conclude(plan: Plan, watcher: Watcher, line: ProgressLine) -> StudyResult:
    """Rank, write the tables and pictures, finish MLflow's records."""
    line.say("writing results")
    watcher.leave_unfinished()
    watcher.add_intransigence()
    watcher.write_tables()
    records, references = watcher.trials(), watcher.references()
    ranking = rank(records)
    results = watcher.results
    content = best_content(plan, ranking, references)
    results.write_best(content)
    levels = {r.algorithm: r.metrics[OBJECTIVE] for r in references if r.state == "finished"}
    figure = response(records, plan.space, levels)
    if figure is not None:
        figure.savefig(results.folder / "response.png", dpi=150)
    shutil.rmtree(results.folder / "ray", ignore_errors=True)
    line.say("sending the last records to MLflow")
    ended = sum(r.state in ("finished", "failed") for r in records)
    best = ranking.best
    waited_for = plan.references if best is not None else tuple(r.algorithm for r in references)
    done = [r.algorithm for r in references if r.state in ("finished", "failed")]
    interrupted = ended < plan.trials or len(done) < len(waited_for)
    state = "unfinished" if interrupted else "finished" if best is not None else "failed"
    watcher.tracker.end(content, best.metrics if best is not None else {}, state)
    return StudyResult(plan, records, references, ranking, interrupted)
