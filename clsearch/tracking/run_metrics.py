"""What runs in MLflow have as metrics, and at which time; the name of a final evaluation's."""

from __future__ import annotations

import math
from typing import Any

from clsearch.methods.registry import label_of
from clsearch.records.evaluation import PARTS, Final, Measured
from clsearch.records.trials import TrialRecord


def summary_of(content: dict[str, Any]) -> dict[str, float]:
    """What best.json says, as metrics of a study: the best configuration and its metrics, the importance of each
    hyperparameter, how many trials ended how, how many are like the best, what the search cost.
    """
    found = {**content.get("metrics", {}), **content.get("scores", {})}
    for kind, key in (("best", "values"), ("importance", "importance"), ("trials", "trials"), ("cost", "cost")):
        found |= {f"{kind}/{name}": float(value) for name, value in content.get(key, {}).items()}
    if "indistinguishable" in content:
        found["trials/like_the_best"] = float(len(content["indistinguishable"]))
    return found


def told_at(record: TrialRecord, step: int) -> int:
    """When the driver was told of a learned task, in milliseconds since 1970."""
    return record.times[step - 1] if 0 < step <= len(record.times) else record.told


def bounds(final: Final, row: Measured) -> dict[str, float]:
    """The ends of the intervals of a row's metrics on both parts, `<part>/<name>/low` and `/high`."""
    found: dict[str, float] = {}
    for part in PARTS:
        for name, i in final.intervals(row, part).items():
            found |= {f"{part}/{name}/low": i.low, f"{part}/{name}/high": i.high}
    return finite_only(found)


def means(final: Final, row: Measured) -> dict[str, float]:
    """A row's metrics on both parts, `<part>/<name>`: means over seeds."""
    return finite_only({f"{p}/{name}": i.mean for p in PARTS for name, i in final.intervals(row, p).items()})


def finite_only(values: dict[str, float]) -> dict[str, float]:
    """MLflow stores no infinity as it is, and NaN says nothing."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def final_name(row: Measured) -> str:
    """The name of a run of the final evaluation: `final LwF (chosen), full sequence`."""
    chosen = " (chosen)" if row.configuration == "chosen" else ""
    return f"final {label_of(row.algorithm)}{chosen}, {row.on.replace('_', ' ')}"
