"""Names of trials as MLflow runs, and the parameters that its comparison shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from clsearch.common.formatting import humanize
from clsearch.config.domains import Values, show_value
from clsearch.methods.registry import label_of, symbol_of
from clsearch.planning.enqueued import ENQUEUED
from clsearch.records.trials import TrialRecord

LOG10 = "LOG10 "
"""Prefix of a parameter that is the common logarithm of a hyperparameter, since MLflow's axes are linear. In capitals,
since MLflow's comparison starts with the first three parameters in which runs differ.
"""


def make_run_label(record: TrialRecord) -> str:
    """A label that is unique among the runs of a study.

    It includes the values: a reference shares the values of the best trial and is trained again when these change;
    the parameters of an MLflow run cannot change, so that is another run.
    """
    return " ".join([record.label, *(f"{name}={value!r}" for name, value in record.values.items())])


def format_run_name(record: TrialRecord) -> str:
    """The name of a run in a list: `#17 LwF factor=0.8 τ=2.1`."""
    if record.number is None:
        return record.label.replace("_", " ")
    values = (
        f"{symbol_of(name) or shorten_name(name, record.values)}={show_value(value, 3)}"
        for name, value in record.values.items()
    )
    return " ".join([f"#{record.number}", label_of(record.algorithm), *values])


def short_origin(origin: str) -> str:
    """Why a trial was tried, for a column: `enqueued`, `warm start`, or "" if the sampler suggested it."""
    return origin if origin in ("", ENQUEUED) else "warm start"


def describe_origin(record: TrialRecord) -> str:
    """Why a trial was tried that the sampler did not suggest, and what was left to it: `warm start: mine #3`."""
    shown = ENQUEUED if record.origin == ENQUEUED else f"warm start: {record.origin}"
    left_open = [humanize(name) for name in record.values if name not in record.given]
    return f"{shown}; {', '.join(left_open)} by the sampler" if left_open else shown


def shorten_name(name: str, names: Iterable[str]) -> str:
    """A hyperparameter without its first word, if the rest is unique among `names`."""
    last = name.partition("_")[2] or name
    return last if sum(other.endswith(last) for other in names) == 1 else name


def log_parameters(values: Values, space: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The common logarithms of the values that were searched on a log scale. space: of study.json."""
    logs = {n: value for n, value in values.items() if isinstance(value, int | float) and space.get(n, {}).get("log")}
    return {f"{LOG10}{shorten_name(name, values)}": f"{math.log10(value):.6g}" for name, value in logs.items()}


def format_setting(value: Any) -> str:
    """A setting as an MLflow parameter."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)
