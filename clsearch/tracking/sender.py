"""Results -> MLflow, live. Only the driver talks to MLflow, from one thread of its own, so that a slow server costs the
search nothing. results/ is the record; what MLflow misses can be sent again.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clsearch.common.formatting import relative_path, without_password
from clsearch.records.attempts import Decision
from clsearch.records.evaluation import FinalEvaluation
from clsearch.records.json_types import BestJson, StudyJson
from clsearch.records.test_ledger import Opening
from clsearch.records.trials import TrialRecord
from clsearch.tracking.stores import default_store

if TYPE_CHECKING:
    from clsearch.tracking.study_runs import Runs

HEAD_START_SECONDS = 15.0
"""For so long MLflow waits for the first learned task: its start would take a core from the workers'."""
RETRY_SECONDS = 10.0
"""After an error, records wait this long before they are sent again."""
PATIENCE_SECONDS = 20.0
"""At a study's end, what takes longer than this to be sent is left."""
TRIES = 3
"""A record that a store refuses, which answers, is sent this often."""

Task = Callable[["Runs"], None]


class Tracker:
    """Sends a study to MLflow from a thread. An error is told once and never ends the study: what could not be sent
    waits until the store answers again.

    study, folder: see `Runs`. uri: the store; None for the study's own SQLite file. warn: called with a message.
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
        self.thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def begin(self) -> None:
        """Connect, create the experiment and the parent run (in the thread: a new SQLite store takes seconds)."""
        self.thread.start()
        self.tasks.put(lambda runs: runs.begin())

    def update(self, record: TrialRecord) -> None:
        """Send a trial as it stands."""
        if record.tasks_learned:
            self.trained.set()
        self.tasks.put(lambda runs: runs.trial(record))

    def add(self, record: TrialRecord, name: str) -> None:
        """Send a metric, and its spread, that an ended trial was given afterwards."""
        self.tasks.put(lambda runs: runs.add(record, name))

    def decided(self, decision: Decision) -> None:
        """Send what the continual protocol chose for the task that it decided last."""
        self.tasks.put(lambda runs: runs.decided(decision))

    def described(self, note: str) -> None:
        """Send what the study is, in Markdown."""
        self.tasks.put(lambda runs: runs.described(note))

    def concluded(self, content: BestJson, when: int) -> None:
        """Send best.json, and what it says as metrics."""
        self.tasks.put(lambda runs: runs.concluded(content, when))

    def opened(self, openings: tuple[Opening, ...]) -> None:
        """Send when test data was opened."""
        self.tasks.put(lambda runs: runs.opened(openings))

    def evaluated(self, final: FinalEvaluation) -> None:
        """Send the final evaluation."""
        self.tasks.put(lambda runs: runs.evaluated(final))

    def reported(self, path: Path) -> None:
        """Send the report."""
        self.tasks.put(lambda runs: runs.reported(path))

    def end(self, state: str) -> None:
        """End the study's run, and wait until everything is sent, as long as something still is."""
        self.tasks.put(lambda runs: runs.end(state))
        self.tasks.put(None)
        self.progress = time.monotonic()
        self.ending.set()
        self.trained.set()
        while self.thread.is_alive() and time.monotonic() - self.progress < PATIENCE_SECONDS:
            self.thread.join(0.1)
        self.left = True
        if self.runs is not None:
            self.runs.close()  # whoever holds the study next is the only one to send it
        if self.thread.is_alive() or self.behind:
            self.warn(
                f"MLflow has not all of the study, results/ has. Once it answers, send what is missing: "
                f"python -m clsearch sync {relative_path(self.folder)}"
            )

    def pages(self, ranked: Sequence[TrialRecord]) -> dict[str, str]:
        """See `Runs.pages`; none where MLflow has not all of the study."""
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
            except Exception as error:  # whatever a store may raise, the study goes on
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
            Runs,  # with MLflow, which takes a second: nobody but this thread waits for it
        )

        quiet()  # MLflow sets its own level as it is imported
        return Runs(self.study, self.folder, self.uri)

    def _warn_once(self, error: Exception) -> None:
        if not self.warned:
            self.warned = True
            said = str(error).replace(self.uri, without_password(self.uri)).strip().partition("\n")[0][:200]
            self.warn(
                f"MLflow does not take records ({type(error).__name__}: {said}); the study goes on, results/ stays "
                f"complete, and what is missing is sent when it does again"
            )


def quiet() -> None:
    """MLflow's own chatter off; the addresses that it prints have their passwords in them. What a store raises is told
    once (`Tracker`), so not with a traceback for each record that a full disk refuses.
    """
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "15"
