"""What a study's folder says, for notebooks and scripts: tables, matrices, figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clsearch.records.evaluation import Final
from clsearch.records.study_record import Reading, read_study, record_named
from clsearch.records.trials import TrialRecord, table_of
from clsearch.reporting.answer_text import answer

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Findings:
    """A study's record, opened: of one that ended, was cut off, or runs. reading: what its folder held."""

    reading: Reading

    @classmethod
    def of(cls, folder: Path) -> Findings:
        """Open results/<study>. Raises ConfigError where there is none."""
        return cls(read_study(folder))

    @property
    def folder(self) -> Path:
        """results/<study>."""
        return self.reading.folder

    @property
    def answer(self) -> str:
        """What was chosen and what it reaches, in two sentences."""
        return " ".join(answer(self.reading))

    @property
    def trials(self) -> pd.DataFrame:
        """A row per trial, as trials.csv has it; of the protocol continual a row per attempt, as attempts.csv."""
        reading = self.reading
        if reading.study["protocol"] == "continual":
            return reading.decision.table(reading.study["seeds"])
        return table_of(reading.trials, reading.space)

    @property
    def references(self) -> pd.DataFrame:
        """A row per reference, as references.csv has it."""
        return table_of(self.reading.references, self.reading.space)

    @property
    def best(self) -> TrialRecord | None:
        """The chosen trial: `.values`, `.metrics`, `.seeds`; None where none has finished."""
        return self.reading.chosen

    @property
    def final(self) -> Final | None:
        """The final evaluation; None where there is none."""
        return self.reading.final

    def matrix(self, trial: int | str) -> np.ndarray:
        """R [M, T+1, T] of a trial (its number) or of a reference (its algorithm) on validation data: R[m, i, j-1] is
        the accuracy of seed m on task j after learning task i, NaN where not measured. Raises ConfigError for another.
        """
        return np.array(record_named(self.reading, str(trial)).accuracy, dtype=float)

    @property
    def figures(self) -> dict[str, go.Figure]:
        """The report's pictures, by the names of its sections: response, importance, tasks, ..."""
        from clsearch.reporting.html.report import (
            figures_of,  # with what it draws, which a study's start does not wait for
        )

        return figures_of(self.reading)
