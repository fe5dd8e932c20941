"""Names of trials as MLflow runs, and the parameters that its comparison shows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from clsearch.common.formatting import humanize
from clsearch.config.plain_values import is_number, show_value
from clsearch.config.spaces import SearchSpace
from clsearch.methods.registry import label_of, searchable, symbol_of
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
    """The name of a run in a list: `#17 LwF factor=0.8 τ=2.1 optimizer=adam`."""
    if record.number is None:
        return record.label.replace("_", " ")
    values = (
        f"{symbol_of(name) or shorten_name(name, record.settings)}={show_value(value, 3)}"
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


def shorten_name(name: str, settings: Iterable[str]) -> str:
    """A hyperparameter without its first word, if that only says of which part of a method it is.

    So `penalty_factor` is `factor`, because other hyperparameters begin with `penalty`, and `batch_size` stays.

    Args:
        name: The hyperparameter.
        settings: Names of all settings of its algorithm, among which the rest must be unique.
    """
    first, _, rest = name.partition("_")
    family = [other for other in searchable() if other.startswith(f"{first}_")]
    unique = sum(other.endswith(rest) for other in settings) == 1
    return rest if rest and name in family and len(family) > 1 and unique else name


def trial_parameters(record: TrialRecord, space: SearchSpace) -> dict[str, Any]:
    """The settings of a trial as parameters of its MLflow run, with the logarithms of logarithmic numbers.

    A hyperparameter that is searched and does not apply to the trial is left out.
    """
    settings = {name: value for name, value in record.settings.items() if name in record.values or name not in space}
    return settings | log_parameters(record, space)


def log_parameters(record: TrialRecord, space: SearchSpace) -> dict[str, str]:
    """The common logarithms of the numbers of a trial that were searched on a logarithmic scale."""
    logs = {n: value for n, value in record.values.items() if is_number(value) and n in space and space[n].log}
    return {f"{LOG10}{shorten_name(name, record.settings)}": f"{math.log10(v):.6g}" for name, v in logs.items()}


def format_setting(value: Any) -> str:
    """A setting as an MLflow parameter."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)
