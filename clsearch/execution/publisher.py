"""Publish the findings of a study other than its trials: write them to results/, then send them to MLflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clsearch.common.formatting import last_line, relative_path
from clsearch.records.attempts import ATTEMPTS, ATTEMPTS_TABLE, Decision, attempts_json
from clsearch.records.evaluation import FinalEvaluation
from clsearch.records.evaluation_file import FINAL_ACCURACY, accuracy_table, evaluation_json, metrics_table
from clsearch.records.json_types import BestJson
from clsearch.records.study_file import BEST, FINAL
from clsearch.records.study_record import read_study
from clsearch.records.test_ledger import Opening
from clsearch.records.writer import StudyWriter
from clsearch.tracking.description import note_of
from clsearch.tracking.sender import Tracker


class Publisher:
    """Publishes a study's findings. An error of MLflow or of a figure never ends the study.

    Args:
        writer: Writes results/<study>/.
        tracker: Sends to MLflow.
        warn: Called with a message.
    """

    def __init__(self, writer: StudyWriter, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self.writer = writer
        self.tracker = tracker
        self.warn = warn
        self.openings: tuple[Opening, ...] = ()

    def publish_attempts(self, decision: Decision, task_decided: bool) -> None:
        """Write all attempts of the continual protocol so far. task_decided: the values of a task have just been
        chosen.
        """
        self.writer.write_json(ATTEMPTS, attempts_json(decision))
        self.writer.write_csv(ATTEMPTS_TABLE, decision.table(self.writer.plan.seeds))
        if task_decided:
            self.tracker.send_decision(decision)

    def publish_choice(self, content: BestJson, when: int) -> None:
        """Write best.json and send it. when: the time of the choice, in milliseconds since 1970."""
        self.writer.write_json(BEST, content)
        self.tracker.send_choice(content, when)

    def publish_opening(self, opening: Opening) -> None:
        """Record that test data are about to be opened: final.json says so even if the evaluation fails."""
        self.openings = (*self.openings, opening)
        self.writer.write_json(FINAL, {"openings": [o.as_json() for o in self.openings], "rows": []})
        self.tracker.send_openings(self.openings)

    def publish_evaluation(self, final: FinalEvaluation) -> None:
        """Write the final evaluation and send it."""
        self.writer.write_csv("final.csv", metrics_table(final))
        tables = {FINAL_ACCURACY: self.writer.write_csv(FINAL_ACCURACY, accuracy_table(final))}
        # Last: its presence means that the evaluation is complete.
        self.writer.write_json(FINAL, evaluation_json(final) | {"tables": tables})
        self.tracker.send_evaluation(final)

    def publish_description(self) -> None:
        """Send the description of the study to MLflow; results/ has no copy."""
        try:
            self.tracker.send_description(note_of(read_study(self.writer.folder)))
        except Exception as error:
            self.warn(f"the description was not sent to MLflow ({type(error).__name__}: {last_line(error)})")

    def publish_report(self) -> None:
        """Write report.html and send it."""
        folder = self.writer.folder
        if (path := try_report(lambda: _write_report(folder), [folder], self.warn)) is not None:
            self.tracker.send_report(path)


def try_report(write: Callable[[], Path], folders: Sequence[Path], warn: Callable[[str], None]) -> Path | None:
    """Write a report and return its path; if that fails, warn and return None.

    Args:
        write: Writes the report and returns its path.
        folders: The folders of its studies.
        warn: Called with a message.
    """
    try:
        return write()
    except Exception as error:  # a failed report must not end the study
        warn(
            f"no report ({type(error).__name__}: {last_line(error)}); results/ is complete. To write it later: "
            f"python -m clsearch report {' '.join(map(relative_path, folders))}"
        )
        return None


def _write_report(folder: Path) -> Path:
    from clsearch.reporting.html.report import write_report  # imported late: plotting libraries load slowly

    return write_report(folder)
