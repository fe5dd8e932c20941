"""The metrics of a trial, computed from its accuracy matrices. Workers send matrices; every metric comes from here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from clsearch import metrics


class Measurements(Protocol):
    """What was measured of a trial, as nested lists (NaN may be None) or arrays: of M seeds, T tasks and E epochs.

    accuracy: R [M, T+1, T]. unlearning: see `metrics.unlearning`. curve: [E, M, K], the learning curve, with its K
    columns; epochs: [E, 2], task and epoch of its rows.
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


def to_tensor(nested: Any) -> Tensor:
    """A tensor of double precision from JSON or an array, NaN where that has null."""
    return torch.from_numpy(np.array(nested, dtype=float))


def accuracy_matrices(measured: Measurements) -> Tensor:
    """R of each seed, [M, T+1, T], NaN where not measured."""
    return to_tensor(measured.accuracy)


def unlearning_measurements(measured: Measurements) -> metrics.Unlearning:
    """What was measured of a trial's unlearning, [M, T+1, T] each; none where nothing was requested."""
    return {name: to_tensor(values) for name, values in measured.unlearning.items()}


def metrics_per_seed(measured: Measurements, learned: int) -> dict[str, Tensor]:
    """Every metric of each seed [M] after the first `learned` tasks, by name."""
    R, unlearning = accuracy_matrices(measured), unlearning_measurements(measured)
    return metrics.summary(R, learned) | metrics.unlearning(unlearning, learned)


def metric_per_seed(measured: Measurements, name: str, learned: int | None = None) -> list[float]:
    """One metric of each seed after the first `learned` tasks; None: after all that the trial learned."""
    return metrics_per_seed(measured, learned or measured.tasks_learned)[name].tolist()


def metrics_after(measured: Measurements, learned: int) -> dict[str, float]:
    """The metrics of a trial after the first `learned` tasks: finite means over seeds, `<name>/std` their standard
    deviations (n - 1; absent for one seed), and `train/<column>` of the last epoch, where the curve is at hand.
    """
    if not learned:
        return {}
    values = metrics_per_seed(measured, learned)
    if len(measured.columns):
        past = torch.tensor([task <= learned for task, _ in measured.epochs])
        last = metrics.last_rows(to_tensor(measured.curve)[past])
        values |= {f"train/{name}": last[:, k] for k, name in enumerate(measured.columns)}
    return {name: value for name, value in metrics.over_seeds(values).items() if math.isfinite(value)}
