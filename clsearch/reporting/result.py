"""What a study found."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clsearch.planning.plan import Plan
from clsearch.records.attempts import Decision
from clsearch.records.evaluation import Final
from clsearch.records.ranking import Choice, Cost, Ranking, cost_of
from clsearch.records.trials import TrialRecord
from clsearch.reporting.findings import Findings

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class StudyResult:
    """What a study found. choice: what it ended with. decision: of the continual protocol, which has no trials.
    final: the choice on fresh seeds; None with --no-final, without a choice, or where `unsealed` says why.
    interrupted: it was stopped before it was done. pages: addresses in MLflow that show it, by name.
    """

    plan: Plan
    records: list[TrialRecord]
    references: list[TrialRecord]
    ranking: Ranking
    choice: Choice | None
    decision: Decision | None
    interrupted: bool
    final: Final | None = None
    unsealed: str = ""
    pages: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> TrialRecord | None:
        """The chosen trial: the one with the best objective, or the knee of the front of several."""
        return self.ranking.best

    @cached_property
    def findings(self) -> Findings:
        """What results/<study>/ says."""
        return Findings.of(self.plan.folder)

    @property
    def answer(self) -> str:
        """See `Findings.answer`."""
        return self.findings.answer

    @property
    def trials(self) -> pd.DataFrame:
        """See `Findings.trials`."""
        return self.findings.trials

    def matrix(self, trial: int | str) -> np.ndarray:
        """See `Findings.matrix`."""
        return self.findings.matrix(trial)

    @property
    def figures(self) -> dict[str, go.Figure]:
        """See `Findings.figures`."""
        return self.findings.figures

    @property
    def cost(self) -> Cost:
        """What the search spent, references and final evaluation apart."""
        return cost_of(self.records) if self.decision is None else self.decision.cost

    @property
    def exit_code(self) -> int:
        """0 done; 1 nothing could be chosen, or not be evaluated; 130 interrupted."""
        if self.interrupted:
            return 130
        evaluated = self.final is not None and self.final.reported is not None
        return 0 if self.choice is not None and (evaluated or not self.plan.options.final) else 1
