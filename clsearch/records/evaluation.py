"""What a final evaluation found: metrics on fresh seeds with intervals, and how optimistic the search was."""

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
from clsearch.common.statistics import Interval, interval, paired_difference
from clsearch.planning.objectives import sign
from clsearch.planning.plan import Plan
from clsearch.records.json_types import FinalJson, FinalRowJson
from clsearch.records.ranking import Choice
from clsearch.records.study_file import FINAL, read_final_json, stored
from clsearch.records.test_ledger import Opening
from clsearch.records.trial_metrics import to_tensor

PARTS = ("validation", "test")


@dataclass(frozen=True)
class EvaluatedConfiguration:
    """One configuration on fresh seeds. configuration: `chosen`, or a reference's algorithm. on: `reported` or
    `full_sequence`. validation, test: R [M, T+1, T] over `tasks` of the benchmark. unlearning: part -> what was
    measured of it there, see `metrics.unlearning`; empty where nothing was requested. reason: why it has no metrics.
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
        """Every metric of each seed [M], by name, after all tasks or the first `learned`; none where it diverged."""
        if self.reason:
            return {}
        learned = learned or len(self.tasks)
        found = metrics.summary(getattr(self, part), learned)
        found |= metrics.unlearning(self.unlearning.get(part, {}), learned)
        return {self._of_task(name): value for name, value in found.items()}

    def _of_task(self, name: str) -> str:
        """A metric's name; of a single task with the task's number, which is its place in the whole sequence only."""
        kind, mark, place = name.partition("/task_")
        return f"{kind}/task_{self.tasks[int(place) - 1]:02d}" if mark else name


@dataclass(frozen=True)
class Optimism:
    """How much better the search thought of its choice than it is. believed: the search's score. validation: the same
    metric of the same tasks, on fresh seeds; test: on test data, of what is reported, None where that has no such task.
    """

    metric: str
    believed: float
    validation: Interval
    test: Interval | None

    @property
    def against_validation(self) -> float:
        """How much better the score was than validation data say on fresh seeds."""
        return sign(self.metric) * (self.believed - self.validation.mean)

    @property
    def against_test(self) -> float:
        """How much better the score was than what is reported; NaN without that."""
        if self.test is None:
            return float("nan")
        return sign(self.metric) * (self.believed - self.test.mean)


@dataclass(frozen=True)
class FinalEvaluation:
    """A choice and its references on fresh seeds. rows: the choice first, on what is reported, then on the full
    sequence where that is another. tasks: how many that has. seeds: the fresh ones; searched_seeds, searched_tasks:
    what the choice was made on.
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
        """The final evaluation of a plan."""
        whole = (plan.protocol.value, plan.config.tasks, plan.tasks, plan.seeds, plan.report_seeds)
        return cls(*whole, choice, rows, openings, seconds)

    def row(self, configuration: str, on: str) -> EvaluatedConfiguration | None:
        """A row; None where there is none, or it has no metrics."""
        own = [r for r in self.rows if r.configuration == configuration and r.on == on and not r.reason]
        return own[0] if own else None

    @property
    def reported_on(self) -> str:
        """What the protocol reports on: `reported`, or the full sequence where that is it."""
        return self.rows[0].on

    @property
    def reported(self) -> EvaluatedConfiguration | None:
        """The choice on what the protocol reports on."""
        return self.row("chosen", self.reported_on)

    def per_seed(self, row: EvaluatedConfiguration, part: str) -> dict[str, Tensor]:
        """Every metric of each seed of a row, intransigence included where there is a joint reference."""
        values, joint = row.per_seed(part), self.row("joint", row.on)
        if values and joint is not None and row is not joint:
            values["intransigence"] = metrics.intransigence(getattr(row, part), getattr(joint, part), len(row.tasks))
        return values

    def intervals(self, row: EvaluatedConfiguration, part: str) -> dict[str, Interval]:
        """Every metric of a row with its 95 % interval over seeds."""
        return {name: interval(values.tolist()) for name, values in self.per_seed(row, part).items()}

    def against(self, row: EvaluatedConfiguration, part: str, name: str) -> Interval | None:
        """A metric of the choice minus a reference's, paired over seeds; None without the choice's or its own."""
        chosen = self.row("chosen", row.on)
        if chosen is None or row.reason or row is chosen:
            return None
        return paired_difference(chosen.per_seed(part)[name].tolist(), row.per_seed(part)[name].tolist())

    @cached_property
    def optimism(self) -> tuple[Optimism, ...]:
        """For each score that the search believed; none where the choice diverged on fresh seeds."""
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
    """A row per configuration, target and part: every metric with its mean and the ends of its interval."""
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
    """R of every row: a line per configuration, what it is measured on, part, seed and number of tasks learned."""
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
    """Accuracies of tasks, each at the place of its number; NaN elsewhere."""
    own = dict(zip(tasks, accuracies, strict=True))
    return [own.get(number, np.nan) for number in range(1, most + 1)]


def evaluation_json(final: FinalEvaluation) -> FinalJson:
    """What final.json holds."""
    return {
        "protocol": final.protocol,
        "choice": asdict(final.choice),
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
    """The openings of test data that a study's folder tells of, whether or not anything came of them."""
    content = stored(folder / FINAL) or {}
    return tuple(Opening(**of | {"seeds": tuple(of["seeds"])}) for of in content.get("openings", ()))


def read_final(folder: Path) -> FinalEvaluation | None:
    """The final evaluation that a study's folder holds; None where there is none that ended."""
    content = read_final_json(folder)
    if content is None:
        return None
    matrices = pd.read_csv(folder / "final_accuracy.csv", float_precision="round_trip")
    rows, seeds, tasks = [], content["seeds"], content["tasks"]
    for row in content["rows"]:
        own = matrices[(matrices.configuration == row["configuration"]) & (matrices.on == row["on"])]
        names = [f"task_{j:02d}" for j in row["tasks"]]
        shape = (len(seeds["reporting"]), len(names) + 1, len(names))
        found: dict[str, Any] = {
            part: torch.from_numpy(own.loc[own.part == part, names].to_numpy().reshape(shape)) for part in PARTS
        }
        found |= {name: row[name] for name in ("configuration", "algorithm", "on", "benchmark", "seconds", "reason")}
        found |= {name: tuple(row[name]) for name in ("tasks", "per_task")}
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
        choice=Choice(**content["choice"] | {"per_task": tuple(content["choice"]["per_task"])}),
        rows=tuple(rows),
        openings=recorded_openings(folder),
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
    """Intervals as JSON has them."""
    return {name: asdict(value) for name, value in values.items()}
