"""Per-step logs, evaluated for many steps at a time: each small operation in a step costs a percent of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from clsearch.tasks.samples import Batch


@dataclass(frozen=True)
class StepLog:
    """The log of one step.

    Args:
        terms: Terms of the loss by name, [M] each.
        predictions: [M, B] predicted outputs.
        labels: [M, B] true outputs.
        batch: The step's batch.
    """

    terms: dict[str, Tensor]
    predictions: Tensor
    labels: Tensor
    batch: Batch


@torch.no_grad()
def curve_rows(columns: Sequence[str], logs: Sequence[StepLog]) -> Tensor:
    """Compute the rows of the learning curve of S steps.

    Args:
        columns: Names of the K columns.
        logs: The S steps, in order.

    Returns:
        [S, M, K], means over each step's batch; a column that is not logged is 0.
    """
    correct = torch.cat([_accuracies(list(group)) for _, group in groupby(logs, _shape)])
    values = {"accuracy": correct}
    values |= {name: torch.stack([log.terms[name] for log in logs]) for name in logs[0].terms if name in columns}
    return torch.stack([values.get(name, torch.zeros_like(correct)) for name in columns], -1)


def _shape(log: StepLog) -> tuple[int, bool]:
    """Return the properties that the batches of one `_accuracies` call must share."""
    return log.labels.shape[1], log.batch.valid is None


def _accuracies(logs: Sequence[StepLog]) -> Tensor:
    """Return the accuracies [S, M] of steps whose batches have one shape."""
    answers, labels = (
        torch.stack(values) for values in zip(*((log.predictions, log.labels) for log in logs), strict=True)
    )
    correct = (answers == labels).float()
    if logs[0].batch.valid is None:
        return correct.mean(-1)
    valid = torch.stack([log.batch.valid for log in logs if log.batch.valid is not None])
    return torch.where(valid, correct, 0).sum(-1) / valid.sum(-1).clamp_min(1)
