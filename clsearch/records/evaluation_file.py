"""final.json and its tables: a final evaluation, written and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from clsearch.common.checked_files import DamagedFile
from clsearch.common.statistics import Interval
from clsearch.records.evaluation import PARTS, EvaluatedConfiguration, FinalEvaluation
from clsearch.records.json_types import ChoiceJson, FinalJson, FinalRowJson
from clsearch.records.ranking import Choice
from clsearch.records.study_file import FINAL, read_final_json, read_openings_json
from clsearch.records.test_ledger import Opening
from clsearch.records.trial_metrics import to_array
from clsearch.records.trials import read_table

FINAL_ACCURACY = "final_accuracy.csv"
"""The matrices R of a final evaluation."""


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
            part: own.loc[own.part == part, names].to_numpy(dtype=float).reshape(shape) for part in PARTS
        }
        named: dict[str, Any] = dict(row)
        found |= {name: named[name] for name in ("configuration", "algorithm", "on", "benchmark", "seconds", "reason")}
        found |= {name: tuple(named[name]) for name in ("tasks", "per_task")}
        found["unlearning"] = {
            part: {name: to_array(values) for name, values in measured.items()}
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
