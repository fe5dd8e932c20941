"""Results of a study for notebooks and scripts: of one that has just run, and of one that is opened later."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clsearch.common.echo import ShortRepr
from clsearch.planning.plan import Plan
from clsearch.records.attempts import Decision
from clsearch.records.evaluation import FinalEvaluation
from clsearch.records.ranking import Choice, Cost, Ranking, cost_of
from clsearch.records.study_record import StudyRecord, find_record, read_study
from clsearch.records.trials import TrialRecord, trials_table
from clsearch.reporting.answer_text import write_answer

if TYPE_CHECKING:
    import plotly.graph_objects as go


class RecordedResult:
    """The record of a study as tables, matrices and figures."""

    record: StudyRecord

    @property
    def answer(self) -> str:
        """The chosen values and their scores, in two sentences."""
        return " ".join(write_answer(self.record))

    @property
    def trials(self) -> pd.DataFrame:
        """A row per trial, as in trials.csv; with protocol `continual` a row per attempt, as in attempts.csv."""
        record = self.record
        if record.study["protocol"] == "continual":
            return record.decision.table(record.study["seeds"])
        return trials_table(record.trials, record.space, record.constraints)

    def matrix(self, trial: int | str) -> np.ndarray:
        """The accuracy matrix R of a trial or reference on validation data.

        Args:
            trial: Number of a trial, or the algorithm of a reference.

        Returns:
            R [M, T+1, T]: R[m, i, j-1] is the accuracy of seed m on task j after learning task i, NaN if not measured.

        Raises:
            ConfigError: There is no such trial or reference.
        """
        return np.array(find_record(self.record, str(trial)).accuracy, dtype=float)

    @property
    def figures(self) -> dict[str, go.Figure]:
        """The pictures of the report by the names of their sections: response, importance, tasks, ..."""
        from clsearch.reporting.html.report import make_figures  # loads plotly and optuna, which a study need not

        return make_figures(self.record)


@dataclass(frozen=True, repr=False)
class OpenedStudy(ShortRepr, RecordedResult):
    """A study that was opened from its folder; it may have ended, have been interrupted, or be running.

    Attributes:
        record: The content of the folder when it was opened.
    """

    record: StudyRecord

    @classmethod
    def open(cls, folder: Path) -> OpenedStudy:
        """Open results/<study>. Raises ConfigError if there is no study."""
        return cls(read_study(folder))

    @property
    def folder(self) -> Path:
        """results/<study>."""
        return self.record.folder

    @property
    def references(self) -> pd.DataFrame:
        """A row per reference, as in references.csv."""
        return trials_table(self.record.references, self.record.space)

    @property
    def best(self) -> TrialRecord | None:
        """The chosen trial: `.values`, `.metrics`, `.seeds`; None if no trial has finished."""
        return self.record.chosen

    @property
    def final(self) -> FinalEvaluation | None:
        """The final evaluation; None if there is none."""
        return self.record.final


@dataclass(frozen=True, repr=False)
class StudyResult(ShortRepr, RecordedResult):
    """The result of a study that has just run.

    Attributes:
        plan: The plan that was carried out.
        records: Its trials.
        references: Its reference trainings.
        ranking: The finished trials in order.
        choice: The choice of the search; None if there is none.
        decision: The attempts of the protocol `continual`, which has no trials; else None.
        interrupted: Whether the study was stopped before it was done, or Ray died under it.
        final: The choice on fresh seeds; None with --no-final, without a choice, or for the reason in `unsealed`.
        unsealed: Why there is no final evaluation.
        pages: Addresses in MLflow that show the study, by name.
        died: What died of Ray while the study ran; "" if nothing did.
        search_end: Why the search ended before all trials; "" if it did not.
    """

    plan: Plan
    records: list[TrialRecord]
    references: list[TrialRecord]
    ranking: Ranking
    choice: Choice | None
    decision: Decision | None
    interrupted: bool
    final: FinalEvaluation | None = None
    unsealed: str = ""
    pages: dict[str, str] = field(default_factory=dict)
    died: str = ""
    search_end: str = ""

    @cached_property
    def record(self) -> StudyRecord:  # type: ignore[override]
        """The record in the folder of the study."""
        return read_study(self.plan.folder)

    @property
    def best(self) -> TrialRecord | None:
        """The chosen trial: the one with the best objective, or the knee of the Pareto front."""
        return self.ranking.best

    @property
    def cost(self) -> Cost:
        """The cost of the search, without references and final evaluation."""
        return cost_of(self.records) if self.decision is None else self.decision.cost

    @property
    def exit_code(self) -> int:
        """0: done; 1: nothing could be chosen, the choice not be evaluated, or Ray died; 130: interrupted."""
        if self.interrupted:
            return 1 if self.died else 130
        evaluated = self.final is not None and self.final.reported is not None
        return 0 if self.choice is not None and (evaluated or not self.plan.options.final) else 1
