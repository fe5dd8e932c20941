"""What a study finds besides its trials: written to results/, then sent on to MLflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clsearch.common.formatting import last_line, relative_path
from clsearch.records.attempts import ATTEMPTS, Decision
from clsearch.records.evaluation import FinalEvaluation, accuracy_table, evaluation_json, metrics_table
from clsearch.records.json_types import BestJson
from clsearch.records.study_file import FINAL
from clsearch.records.study_record import read_study
from clsearch.records.test_ledger import Opening
from clsearch.records.writer import StudyWriter
from clsearch.tracking.description import note_of
from clsearch.tracking.sender import Tracker


class Publisher:
    """Publishes a study's findings. Nothing that goes wrong with MLflow or a picture costs the study anything.

    writer: of results/<study>/. tracker: of MLflow. warn: called with a message.
    """

    def __init__(self, writer: StudyWriter, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self.writer = writer
        self.tracker = tracker
        self.warn = warn
        self.openings: tuple[Opening, ...] = ()

    def publish_attempts(self, decision: Decision, task_decided: bool) -> None:
        """Every attempt of the continual protocol so far. task_decided: whether a task's values are chosen anew."""
        self.writer.write_csv(ATTEMPTS, decision.table(self.writer.plan.seeds))
        if task_decided:
            self.tracker.decided(decision)

    def publish_choice(self, content: BestJson, when: int) -> None:
        """What the search found, best.json. when: it was known, in milliseconds since 1970."""
        self.writer.write_json("best.json", content)
        self.tracker.concluded(content, when)

    def publish_opening(self, opening: Opening) -> None:
        """That test data is opened, before it is: final.json says so even where nothing comes of it."""
        self.openings = (*self.openings, opening)
        self.writer.write_json(FINAL, {"openings": [o.as_json() for o in self.openings], "rows": []})
        self.tracker.opened(self.openings)

    def publish_evaluation(self, final: FinalEvaluation) -> None:
        """What the final evaluation found."""
        self.writer.write_csv("final.csv", metrics_table(final))
        self.writer.write_csv("final_accuracy.csv", accuracy_table(final))
        self.writer.write_json(FINAL, evaluation_json(final))  # last: with it, all is there
        self.tracker.evaluated(final)

    def publish_description(self) -> None:
        """What the study is, to MLflow alone."""
        try:
            self.tracker.described(note_of(read_study(self.writer.folder)))
        except Exception as error:
            self.warn(f"no description in MLflow ({type(error).__name__}: {last_line(error)})")

    def publish_report(self) -> None:
        """report.html."""
        folder = self.writer.folder
        if (path := try_report(lambda: _write_report(folder), [folder], self.warn)) is not None:
            self.tracker.reported(path)


def try_report(write: Callable[[], Path], folders: Sequence[Path], warn: Callable[[str], None]) -> Path | None:
    """Write a report; gives its path, None where that failed, which is said.

    write: writes it. folders: of the studies that it is about. warn: called with a message.
    """
    try:
        return write()
    except Exception as error:  # a picture is no reason to lose a night
        warn(
            f"no report ({type(error).__name__}: {last_line(error)}); the record is complete. Once that is mended: "
            f"python -m clsearch report {' '.join(map(relative_path, folders))}"
        )
        return None


def _write_report(folder: Path) -> Path:
    from clsearch.reporting.html.report import write_report  # only now, so no trial waits for what draws it

    return write_report(folder)
