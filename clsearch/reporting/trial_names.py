"""What runs in MLflow are called, and what tells them apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from clsearch.common.formatting import algorithm_label
from clsearch.records.trials import TrialRecord

SYMBOLS = {"distillation_temperature": "τ", "penalty_p_norm": "p", "learning_rate": "lr"}
"""Hyperparameters that papers have a letter for."""

LOG10 = "LOG10 "
"""Begins the name of a parameter that is a hyperparameter's common logarithm: MLflow's axes are linear. In capitals,
since the first three parameters in which runs differ are those that its comparison shows at first.
"""


def label_of(record: TrialRecord) -> str:
    """What tells a run from the study's others. A reference is trained again where the best trial's values, which it
    shares, became others; parameters of a run can't be changed, so that is another run.
    """
    return " ".join([record.label, *(f"{name}={value!r}" for name, value in record.values.items())])


def run_name(record: TrialRecord) -> str:
    """A name that tells runs apart in a list: `#17 LwF factor=0.8 τ=2.1`."""
    if record.number is None:
        return record.label.replace("_", " ")
    values = (f"{SYMBOLS.get(name) or short(name, record.values)}={v:.3g}" for name, v in record.values.items())
    return " ".join([f"#{record.number}", algorithm_label(record.algorithm), *values])


def short(name: str, names: Iterable[str]) -> str:
    """A hyperparameter without the word that its algorithm's others begin with, too, if that tells it apart."""
    last = name.partition("_")[2] or name
    return last if sum(other.endswith(last) for other in names) == 1 else name


def logarithms(values: Mapping[str, float], space: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Parameters with the common logarithms of what was searched on a logarithmic scale. space: study.json's."""
    logs = {name: value for name, value in values.items() if space.get(name, {}).get("log")}
    return {f"{LOG10}{short(name, values)}": f"{math.log10(value):.6g}" for name, value in logs.items()}


def text(value: Any) -> str:
    """A setting as MLflow shows it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)
