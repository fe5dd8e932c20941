"""Results of a final evaluation: metrics on fresh seeds with intervals, and the optimism of the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clsearch import metrics
from clsearch.common.checked_files import DamagedFile
from clsearch.common.echo import ShortRepr
from clsearch.common.statistics import Interval, interval, paired_difference
from clsearch.planning.objectives import sign
from clsearch.planning.plan import Plan
from clsearch.records.json_types import ChoiceJson, FinalJson, FinalRowJson
from clsearch.records.ranking import Choice
from clsearch.records.study_file import FINAL, read_final_json, read_openings_json
from clsearch.records.test_ledger import Opening
from clsearch.records.trial_metrics import to_tensor
from clsearch.records.trials import read_table

PARTS = ("validation", "test")

FINAL_ACCURACY = "final_accuracy.csv"
"""The matrices R of a final evaluation."""


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
    validation: Tensor
    test: Tensor
    seconds: float
    reason: str = ""
    unlearning: dict[str, metrics.Unlearning] = field(default_factory=dict)

    def per_seed(self, part: str, learned: int | None = None) -> dict[str, Tensor]:
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
        whole = (plan.protocol.value, plan.config.tasks, plan.tasks, plan.seeds, plan.report_seeds)
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

    def per_seed(self, row: EvaluatedConfiguration, part: str) -> dict[str, Tensor]:
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


def metrics_table(final: FinalEvaluation) -> pd.DataFrame:
    """Make a table with a row per configuration, target and part: every metric with its mean and the ends of its
    interval.
    """
    rows = []
    for row in final.rows:
        for part in PARTS:
            cells: dict[str, Any] = {
                "configuration": row.configuration,
                "algorithm": row.algorithm,
                "on": row.on,
                "benchmark": row.benchmark,
                "tasks": " ".join(map(str, row.tasks)),
                "part": part,
            }
            for name, found in final.intervals(row, part).items():
                cells |= {name: found.mean, f"{name}/low": found.low, f"{name}/high": found.high}
            rows.append(cells | {"seconds": row.seconds, "reason": row.reason})
    return pd.DataFrame(rows)


def accuracy_table(final: FinalEvaluation) -> pd.DataFrame:
    """Make a table of the matrices R: a line per configuration, target, part, seed and number of learned tasks."""
    most = max(max(row.tasks) for row in final.rows)
    lines = [
        [row.configuration, row.on, part, seed, learned, *by_task_number(accuracies, row.tasks, most)]
        for row in final.rows
        for part in PARTS
        for seed, matrix in zip(final.seeds, getattr(row, part).tolist(), strict=True)
        for learned, accuracies in enumerate(matrix)
    ]
    names = [f"task_{j:02d}" for j in range(1, most + 1)]
    return pd.DataFrame(lines, columns=["configuration", "on", "part", "seed", "tasks_learned", *names])


def by_task_number(accuracies: Sequence[float], tasks: Sequence[int], most: int) -> list[float]:
    """Place accuracies at the numbers of their tasks; NaN elsewhere."""
    own = dict(zip(tasks, accuracies, strict=True))
    return [own.get(number, np.nan) for number in range(1, most + 1)]


def evaluation_json(final: FinalEvaluation) -> FinalJson:
    """Return the content of final.json."""
    return {
        "protocol": final.protocol,
        "choice": cast(ChoiceJson, asdict(final.choice)),
        "tasks": {"searched": list(final.searched_tasks), "all": final.tasks},
        "seeds": {"selecting": list(final.searched_seeds), "reporting": list(final.seeds)},
        "openings": [opening.as_json() for opening in final.openings],
        "optimism": [
            asdict(o) | {"against_validation": o.against_validation, "against_test": o.against_test}
            for o in final.optimism
        ],
        "rows": [_row_json(final, row) for row in final.rows],
        "seconds": final.seconds,
    }


def recorded_openings(folder: Path) -> tuple[Opening, ...]:
    """Return the openings of test data in a study's folder, even if their evaluation failed. Raises DamagedFile."""
    content = read_openings_json(folder)
    return tuple(map(Opening.from_json, content["openings"])) if content else ()


def read_final(folder: Path, expected: bool = False) -> FinalEvaluation | None:
    """Read the final evaluation from a study's folder; None if none was completed.

    Raises:
        DamagedFile: final.json or the table of its matrices cannot be read, or is missing although it is expected.
    """
    content = read_final_json(folder, expected)
    if content is None:
        return None
    matrices = read_table(folder / FINAL_ACCURACY, content.get("tables", {}).get(FINAL_ACCURACY))
    try:
        return _final_of(content, matrices, recorded_openings(folder))
    except DamagedFile:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a study of 0.1, whose tables have no digest
        raise DamagedFile(folder / FINAL, f"content that {FINAL_ACCURACY} does not fit ({error!r})") from None


def _final_of(content: FinalJson, matrices: pd.DataFrame, openings: tuple[Opening, ...]) -> FinalEvaluation:
    """Make a final evaluation from its files."""
    rows, seeds, tasks = [], content["seeds"], content["tasks"]
    for row in content["rows"]:
        own = matrices[(matrices.configuration == row["configuration"]) & (matrices.on == row["on"])]
        names = [f"task_{j:02d}" for j in row["tasks"]]
        shape = (len(seeds["reporting"]), len(names) + 1, len(names))
        found: dict[str, Any] = {
            part: torch.from_numpy(own.loc[own.part == part, names].to_numpy(dtype=float).reshape(shape))
            for part in PARTS
        }
        named: dict[str, Any] = dict(row)
        found |= {name: named[name] for name in ("configuration", "algorithm", "on", "benchmark", "seconds", "reason")}
        found |= {name: tuple(named[name]) for name in ("tasks", "per_task")}
        found["unlearning"] = {
            part: {name: to_tensor(values) for name, values in measured.items()}
            for part, measured in row.get("unlearning", {}).items()
        }
        rows.append(EvaluatedConfiguration(settings=row["config"], **found))
    return FinalEvaluation(
        protocol=content["protocol"],
        tasks=tasks["all"],
        searched_tasks=tuple(tasks["searched"]),
        searched_seeds=tuple(seeds["selecting"]),
        seeds=tuple(seeds["reporting"]),
        choice=Choice(
            content["choice"]["label"],
            content["choice"]["values"],
            content["choice"]["scores"],
            tuple(content["choice"]["per_task"]),
        ),
        rows=tuple(rows),
        openings=openings,
        seconds=content["seconds"],
    )


def _row_json(final: FinalEvaluation, row: EvaluatedConfiguration) -> FinalRowJson:
    content: Any = {
        "configuration": row.configuration,
        "algorithm": row.algorithm,
        "on": row.on,
        "benchmark": row.benchmark,
        "tasks": list(row.tasks),
        "config": row.settings,
        "per_task": list(row.per_task),
        "seconds": row.seconds,
        "reason": row.reason,
    }
    if row.unlearning:
        content["unlearning"] = {
            part: {name: values.tolist() for name, values in measured.items()}
            for part, measured in row.unlearning.items()
        }
    for part in PARTS:
        content[part] = intervals_as_json(final.intervals(row, part))
        if (difference := final.against(row, part, "average_accuracy")) is not None:
            content[part]["chosen_minus_this"] = asdict(difference)
    return cast(FinalRowJson, content)


def intervals_as_json(values: Mapping[str, Interval]) -> dict[str, Any]:
    """Convert intervals to JSON."""
    return {name: asdict(value) for name, value in values.items()}
