"""Metrics of MLflow runs with their times, and names of the runs of a final evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from clsearch.config.plain_values import is_number, show_value
from clsearch.methods.registry import label_of
from clsearch.records.evaluation import PARTS, EvaluatedConfiguration, FinalEvaluation
from clsearch.records.json_types import BestJson
from clsearch.records.trials import TrialRecord


def choice_metrics(content: BestJson) -> dict[str, float]:
    """Convert best.json to metrics of a study.

    They are the numbers of the best configuration and its metrics, the importance of each hyperparameter, the number of
    trials in each final state and of those not shown worse than the best, and the cost of the search.
    """
    found = {**content.get("metrics", {}), **content.get("scores", {})}
    groups: dict[str, Mapping[str, Any]] = {
        "best": {name: value for name, value in content.get("values", {}).items() if is_number(value)},
        "importance": {**content.get("importance", {}), **content.get("conditional_importance", {})},
        "trials": content.get("trials", {}),
        "cost": content.get("cost", {}),
    }
    for kind, values in groups.items():
        found |= {f"{kind}/{name}": float(value) for name, value in values.items()}
    if "indistinguishable" in content:
        found["trials/like_the_best"] = float(len(content["indistinguishable"]))
    return found


def choice_tags(content: BestJson, searched: Iterable[str]) -> dict[str, str]:
    """Convert the chosen values that are no numbers to tags of a study, which can change when it is extended.

    Args:
        content: best.json.
        searched: Names of the searched hyperparameters; one that the choice does not have is `not used`.
    """
    values = content.get("values", {})
    unused = {f"best/{name}": "not used" for name in searched if values and name not in values}
    return unused | {f"best/{name}": show_value(value) for name, value in values.items() if not is_number(value)}


def task_time(record: TrialRecord, step: int) -> int:
    """Return when the driver received the report of a learned task, in milliseconds since 1970."""
    return record.times[step - 1] if 0 < step <= len(record.times) else record.reported


def interval_ends(final: FinalEvaluation, row: EvaluatedConfiguration) -> dict[str, float]:
    """Return the ends of the intervals of a row's metrics on both parts, `<part>/<name>/low` and `/high`."""
    found: dict[str, float] = {}
    for part in PARTS:
        for name, i in final.intervals(row, part).items():
            found |= {f"{part}/{name}/low": i.low, f"{part}/{name}/high": i.high}
    return finite_only(found)


def interval_means(final: FinalEvaluation, row: EvaluatedConfiguration) -> dict[str, float]:
    """Return a row's metrics on both parts, `<part>/<name>`: means over seeds."""
    return finite_only({f"{p}/{name}": i.mean for p in PARTS for name, i in final.intervals(row, p).items()})


def finite_only(values: dict[str, float]) -> dict[str, float]:
    """Leave out infinite values, which MLflow stores as other numbers, and NaN."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def evaluation_run_name(row: EvaluatedConfiguration) -> str:
    """Return the name of a run of the final evaluation: `final LwF (chosen), full sequence`."""
    chosen = " (chosen)" if row.configuration == "chosen" else ""
    return f"final {label_of(row.algorithm)}{chosen}, {row.on.replace('_', ' ')}"
