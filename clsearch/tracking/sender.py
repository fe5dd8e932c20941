"""Send results to MLflow while the study runs.

Only the driver sends, from its own thread, so that a slow server does not delay the search. results/ is the record;
missing data can be sent again.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clsearch.common.formatting import relative_path
from clsearch.common.redaction import printable, redact
from clsearch.records.attempts import Decision
from clsearch.records.evaluation import FinalEvaluation
from clsearch.records.json_types import BestJson, StudyJson
from clsearch.records.test_ledger import Opening
from clsearch.records.trials import TrialRecord
from clsearch.reporting.trial_names import make_run_label
from clsearch.tracking.stores import default_store

if TYPE_CHECKING:
    from clsearch.tracking.study_runs import Runs

HEAD_START_SECONDS = 15.0
"""Wait at most this long for the first learned task before MLflow starts, because its start would occupy a worker's
core.
"""
PAUSE_SECONDS = 2.0
"""Wait this long after everything was sent, so that tasks that are learned shortly after each other go together."""
RETRY_SECONDS = 10.0
"""Wait this long after an error before records are sent again."""
PATIENCE_SECONDS = 20.0
"""At a study's end, stop if no record has been sent for this long."""
TRIES = 3
"""Number of attempts for a record that a reachable store refuses."""

Task = Callable[["Runs"], None]


class Tracker:
    """Sends a study to MLflow from a thread.

    An error is printed once and never ends the study; unsent records wait until the store answers again.

    Args:
        study: study.json, see `Runs`.
        folder: The study's folder.
        uri: The store; None for the study's own SQLite file.
        warn: Called with a message.
    """

    def __init__(self, study: StudyJson, folder: Path, uri: str | None, warn: Callable[[str], None]) -> None:
        self.uri = uri or default_store(folder)
        self.study, self.folder = study, folder
        self.runs: Runs | None = None
        self.warn = warn
        self.connected = self.warned = self.behind = self.gone = self.left = False
        self.ending = threading.Event()
        self.trained = threading.Event()
        self.progress = 0.0
        self.tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.waiting: dict[str, TrialRecord] = {}
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def begin(self) -> None:
        """Connect, and create the experiment and the parent run (in the thread: a new SQLite store takes seconds)."""
        self.thread.start()
        self.tasks.put(lambda runs: runs.begin())

    def update(self, record: TrialRecord) -> None:
        """Send a trial's present record, unless a later one comes before it is sent: that one has all its steps."""
        if record.tasks_learned:
            self.trained.set()
        key = make_run_label(record)
        with self.lock:
            if key not in self.waiting:
                self.tasks.put(partial(self._send_latest, key, []))
            self.waiting[key] = record

    def _send_latest(self, key: str, taken: list[TrialRecord], runs: Runs) -> None:
        """Send the latest record of a trial. taken: the one that an earlier try took and could not send."""
        with self.lock:
            if key in self.waiting:
                taken[:] = [self.waiting.pop(key)]
        if taken:
            runs.log_trial(taken[0])

    def add(self, record: TrialRecord, name: str) -> None:
        """Send a metric, and its spread, that was added to an ended trial."""
        self.tasks.put(lambda runs: runs.log_added_metric(record, name))

    def send_decision(self, decision: Decision) -> None:
        """Send the continual protocol's choice for the last decided task."""
        self.tasks.put(lambda runs: runs.log_decision(decision))

    def send_description(self, note: str) -> None:
        """Send the description of the study, in Markdown."""
        self.tasks.put(lambda runs: runs.log_description(note))

    def send_choice(self, content: BestJson, when: int) -> None:
        """Send best.json as a file and as metrics."""
        self.tasks.put(lambda runs: runs.log_choice(content, when))

    def send_openings(self, openings: tuple[Opening, ...]) -> None:
        """Send the openings of test data."""
        self.tasks.put(lambda runs: runs.log_openings(openings))

    def send_evaluation(self, final: FinalEvaluation) -> None:
        """Send the final evaluation."""
        self.tasks.put(lambda runs: runs.log_evaluation(final))

    def send_report(self, path: Path) -> None:
        """Send the report."""
        self.tasks.put(lambda runs: runs.log_report(path))

    def end(self, state: str) -> None:
        """End the study's run, and wait as long as records are still being sent."""
        self.tasks.put(lambda runs: runs.end(state))
        self.tasks.put(None)
        self.progress = time.monotonic()
        self.ending.set()
        self.trained.set()
        while self.thread.is_alive() and time.monotonic() - self.progress < PATIENCE_SECONDS:
            self.thread.join(0.1)
        self.left = True
        if self.runs is not None:
            for damage in self.runs.damaged:
                self.warn(f"not sent to MLflow: {damage}")
            self.runs.close()  # the next process that holds the study must be the only sender
        if self.thread.is_alive() or self.behind:
            self.warn(
                f"Some records were not sent to MLflow; results/ is complete. Send them once MLflow answers: "
                f"python -m clsearch sync {relative_path(self.folder)}"
            )

    def leave(self) -> None:
        """Send nothing more. `clsearch sync`, or the study when it is resumed, sends what is missing."""
        self.left = True
        self.ending.set()
        self.trained.set()
        self.tasks.put(None)

    def pages(self, ranked: Sequence[TrialRecord]) -> dict[str, str]:
        """Return `Runs.pages`; empty if some records were not sent."""
        if self.runs is None or self.behind or not self.connected or self.thread.is_alive():
            return {}
        return self.runs.pages(ranked)

    def _work(self) -> None:
        self.trained.wait(HEAD_START_SECONDS)
        while (task := self.tasks.get()) is not None:
            self._send(task)
            self.progress = time.monotonic()
            if self.gone or self.left:
                return
            if self.tasks.empty():  # let records gather: of a trial, only the latest is sent
                self.ending.wait(PAUSE_SECONDS)

    def _send(self, task: Task) -> None:
        refused = 0
        while not self.left:
            last = self.ending.is_set()
            try:
                if self.runs is None:
                    self.runs = self._runs()
                if not self.connected:
                    self.runs.connect()
                    self.connected = True
                if self.left:
                    return
                task(self.runs)
                return
            except Exception as error:  # stores raise many types; the study continues
                if self.left:
                    return
                self._warn_once(error)
                away, self.connected = not self.connected, False
                refused += not away
                self.gone = away and last
                if self.gone or refused == TRIES:
                    self.behind = True
                    return
                if away:
                    self.ending.wait(RETRY_SECONDS)

    def _runs(self) -> Runs:
        from clsearch.tracking.study_runs import (
            Runs,  # imports MLflow, which takes a second: only this thread waits
        )

        quiet()  # importing MLflow sets its own level
        return Runs(self.study, self.folder, self.uri)

    def _warn_once(self, error: Exception) -> None:
        if not self.warned:
            self.warned = True
            reason = printable(redact(str(error).strip(), self.uri).partition("\n")[0][:200])
            self.warn(
                f"MLflow does not accept records ({type(error).__name__}: {reason}); the study continues, results/ "
                f"stays complete, and unsent records are sent when MLflow answers again"
            )


def quiet() -> None:
    """Silence MLflow's own messages, whose addresses contain passwords.

    `Tracker` prints a store's error once, instead of a traceback for each record that a full disk refuses.
    """
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "15"
