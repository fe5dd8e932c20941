"""Compute the metrics of a trial from its accuracy matrices. Workers send matrices only; this module computes all
metrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from clsearch import metrics


class Measurements(Protocol):
    """The measurements of a trial, as nested lists (NaN can be None) or arrays: M seeds, T tasks, E epochs, K columns.

    Attributes:
        tasks_learned: Number of learned tasks.
        accuracy: R [M, T+1, T].
        unlearning: See `metrics.unlearning`.
        columns: Names of the learning curve's K columns.
        curve: The learning curve, [E, M, K].
        epochs: Task and epoch of its rows, [E, 2].
    """

    @property
    def tasks_learned(self) -> int: ...
    @property
    def accuracy(self) -> Any: ...
    @property
    def unlearning(self) -> Mapping[str, Any]: ...
    @property
    def columns(self) -> Sequence[str]: ...
    @property
    def curve(self) -> Any: ...
    @property
    def epochs(self) -> Any: ...


def to_array(nested: Any) -> np.ndarray:
    """Convert nested lists of JSON to a double-precision array; null becomes NaN."""
    return np.array(nested, dtype=float)


def accuracy_matrices(measured: Measurements) -> np.ndarray:
    """Return R of each seed, [M, T+1, T], NaN if not measured."""
    return to_array(measured.accuracy)


def unlearning_measurements(measured: Measurements) -> metrics.Unlearning:
    """Return the measurements of a trial's unlearning, [M, T+1, T] each; empty if nothing was requested."""
    return {name: to_array(values) for name, values in measured.unlearning.items()}


def metrics_per_seed(measured: Measurements, learned: int) -> dict[str, np.ndarray]:
    """Compute every metric of each seed [M] after the first `learned` tasks, by name."""
    R, unlearning = accuracy_matrices(measured), unlearning_measurements(measured)
    return metrics.summary(R, learned) | metrics.unlearning(unlearning, learned)


def metric_per_seed(measured: Measurements, name: str, learned: int | None = None) -> list[float]:
    """Compute one metric of each seed after the first `learned` tasks; None: after all that the trial learned."""
    return metrics_per_seed(measured, learned or measured.tasks_learned)[name].tolist()


def metric_of_each(measured: Sequence[Measurements], name: str, learned: int | None = None) -> list[list[float]]:
    """Compute one metric of each seed of several trials, see `metric_per_seed`; those alike are computed together."""
    groups: dict[object, list[int]] = {}
    matrices = [accuracy_matrices(one) for one in measured]
    for position, (one, R) in enumerate(zip(measured, matrices, strict=True)):
        alike = (learned or one.tasks_learned, R.shape, np.isnan(R).tobytes(), position if one.unlearning else None)
        groups.setdefault(alike, []).append(position)
    found: dict[int, list[float]] = {}
    for positions in groups.values():
        first = measured[positions[0]]
        if first.unlearning:
            found[positions[0]] = metric_per_seed(first, name, learned)
            continue
        stacked = np.stack([matrices[position] for position in positions])
        values = metrics.summary(stacked, learned or first.tasks_learned)[name]
        found |= dict(zip(positions, values.tolist(), strict=True))
    return [found[position] for position in range(len(measured))]


def metrics_after(measured: Measurements, learned: int) -> dict[str, float]:
    """Compute the metrics of a trial after the first `learned` tasks.

    Returns:
        Finite means over seeds by name, `<name>/std` their standard deviations (n - 1; absent for one seed), and
        `train/<column>` of the last epoch if the curve is available.
    """
    if not learned:
        return {}
    values = metrics_per_seed(measured, learned)
    if len(measured.columns):
        past = np.array([task <= learned for task, _ in measured.epochs])
        last = metrics.last_rows(to_array(measured.curve)[past])
        values |= {f"train/{name}": last[:, k] for k, name in enumerate(measured.columns)}
    return {name: value for name, value in metrics.over_seeds(values).items() if math.isfinite(value)}
