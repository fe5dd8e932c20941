"""Results of a final evaluation: metrics on fresh seeds with intervals, and the optimism of the search."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from clsearch import metrics
from clsearch.common.echo import ShortRepr
from clsearch.common.statistics import Interval, interval, paired_difference
from clsearch.planning.objectives import sign
from clsearch.planning.plan import Plan
from clsearch.records.ranking import Choice
from clsearch.records.test_ledger import Opening

PARTS = ("validation", "test")


@dataclass(frozen=True, repr=False)
class EvaluatedConfiguration(ShortRepr):
    """One configuration on fresh seeds.

    Attributes:
        configuration: `chosen`, or a reference's algorithm.
        algorithm: Its algorithm.
        on: `reported` or `full_sequence`.
        benchmark: The benchmark.
        tasks: Numbers of the tasks that were learned.
        settings: All settings that hold for every task.
        per_task: The values of each task, if they differ.
        validation, test: R [M, T+1, T] over `tasks` of the benchmark.
        seconds: Training time.
        reason: Why it has no metrics; "" if it has.
        unlearning: Part -> measurements there, see `metrics.unlearning`; empty if nothing was requested.
    """

    configuration: str
    algorithm: str
    on: str
    benchmark: str
    tasks: tuple[int, ...]
    settings: dict[str, Any]
    per_task: tuple[dict[str, float], ...]
    validation: np.ndarray
    test: np.ndarray
    seconds: float
    reason: str = ""
    unlearning: dict[str, metrics.Unlearning] = field(default_factory=dict)

    def per_seed(self, part: str, learned: int | None = None) -> dict[str, np.ndarray]:
        """Return every metric of each seed [M], by name, after all tasks or the first `learned`; empty if training
        diverged.
        """
        if self.reason:
            return {}
        learned = learned or len(self.tasks)
        found = metrics.summary(getattr(self, part), learned)
        found |= metrics.unlearning(self.unlearning.get(part, {}), learned)
        return {self._of_task(name): value for name, value in found.items()}

    def _of_task(self, name: str) -> str:
        """Return a metric's name with the task's number in the benchmark instead of its position in the sequence."""
        kind, mark, place = name.partition("/task_")
        return f"{kind}/task_{self.tasks[int(place) - 1]:02d}" if mark else name


@dataclass(frozen=True)
class Optimism:
    """The difference between the search's score of its choice and the score on fresh seeds.

    Attributes:
        metric: The metric.
        believed: The search's score.
        validation: The same metric of the same tasks on validation data, on fresh seeds.
        test: The same metric on test data, of the reported tasks; None if it does not exist there.
    """

    metric: str
    believed: float
    validation: Interval
    test: Interval | None

    @property
    def against_validation(self) -> float:
        """How much better the search's score is than the score on validation data and fresh seeds."""
        return sign(self.metric) * (self.believed - self.validation.mean)

    @property
    def against_test(self) -> float:
        """How much better the search's score is than the reported score; NaN if there is none."""
        if self.test is None:
            return float("nan")
        return sign(self.metric) * (self.believed - self.test.mean)


@dataclass(frozen=True, repr=False)
class FinalEvaluation(ShortRepr):
    """A choice and its references on fresh seeds.

    Attributes:
        protocol: The selection protocol.
        tasks: Number of tasks of the full sequence.
        searched_tasks: The tasks on which the choice was made.
        searched_seeds: The seeds on which the choice was made.
        seeds: The fresh seeds.
        choice: The chosen configuration.
        rows: The results: the choice first, on the reported tasks, then on the full sequence if that differs.
        openings: The recorded openings of test data.
        seconds: Time of the evaluation.
    """

    protocol: str
    tasks: int
    searched_tasks: tuple[int, ...]
    searched_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    choice: Choice
    rows: tuple[EvaluatedConfiguration, ...]
    openings: tuple[Opening, ...]
    seconds: float

    @classmethod
    def of(
        cls,
        plan: Plan,
        choice: Choice,
        rows: tuple[EvaluatedConfiguration, ...],
        openings: tuple[Opening, ...],
        seconds: float,
    ) -> FinalEvaluation:
        """Make the final evaluation of a plan."""
        whole = (plan.protocol.value, plan.config.tasks, plan.tasks, plan.every_seed, plan.report_seeds)
        return cls(*whole, choice, rows, openings, seconds)

    def row(self, configuration: str, on: str) -> EvaluatedConfiguration | None:
        """Return a row; None if it does not exist or has no metrics."""
        own = [r for r in self.rows if r.configuration == configuration and r.on == on and not r.reason]
        return own[0] if own else None

    @property
    def reported_on(self) -> str:
        """The target that the protocol reports on: `reported`, or `full_sequence` if they are the same."""
        return self.rows[0].on

    @property
    def reported(self) -> EvaluatedConfiguration | None:
        """The choice on the target that the protocol reports on."""
        return self.row("chosen", self.reported_on)

    def per_seed(self, row: EvaluatedConfiguration, part: str) -> dict[str, np.ndarray]:
        """Return every metric of each seed of a row, with intransigence if there is a joint reference."""
        values, joint = row.per_seed(part), self.row("joint", row.on)
        if values and joint is not None and row is not joint:
            values["intransigence"] = metrics.intransigence(getattr(row, part), getattr(joint, part), len(row.tasks))
        return values

    def intervals(self, row: EvaluatedConfiguration, part: str) -> dict[str, Interval]:
        """Return every metric of a row with its 95 % interval over seeds."""
        return {name: interval(values.tolist()) for name, values in self.per_seed(row, part).items()}

    def against(self, row: EvaluatedConfiguration, part: str, name: str) -> Interval | None:
        """Return a metric of the choice minus a reference's, paired over seeds; None if either is missing."""
        chosen = self.row("chosen", row.on)
        if chosen is None or row.reason or row is chosen:
            return None
        return paired_difference(chosen.per_seed(part)[name].tolist(), row.per_seed(part)[name].tolist())

    @cached_property
    def optimism(self) -> tuple[Optimism, ...]:
        """The optimism of each score of the search; empty if the choice diverged on fresh seeds."""
        full, reported, found = self.row("chosen", "full_sequence"), self.reported, []
        if full is None or reported is None:
            return ()
        for name, believed in self.choice.scores.items():
            seen = full.per_seed("validation", len(self.searched_tasks))[name]
            test = reported.per_seed("test").get(name)
            opened = None if test is None else interval(test.tolist())
            found.append(Optimism(name, believed, interval(seen.tolist()), opened))
        return tuple(found)
