"""What steps tell of themselves, put together for many at a time: each small operation in a step costs it a percent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from clsearch.tasks.samples import Batch


@dataclass(frozen=True)
class StepLog:
    """One step's: terms by name, [M] each; what was answered to its batch, and the labels, [M, B] each."""

    terms: dict[str, Tensor]
    answers: Tensor
    labels: Tensor
    batch: Batch


@torch.no_grad()
def rows_of(columns: Sequence[str], logs: Sequence[StepLog]) -> Tensor:
    """[S, M, K] of S steps, in the order of the columns: means over the batch of each; what is not logged is 0."""
    correct = torch.cat([_accuracies(list(own)) for _, own in groupby(logs, _shape)])
    found = {"accuracy": correct}
    found |= {name: torch.stack([log.terms[name] for log in logs]) for name in logs[0].terms if name in columns}
    return torch.stack([found.get(name, torch.zeros_like(correct)) for name in columns], -1)


def _shape(log: StepLog) -> tuple[int, bool]:
    return log.labels.shape[1], log.batch.valid is None


def _accuracies(logs: Sequence[StepLog]) -> Tensor:
    """[S, M] of steps whose batches are alike."""
    answers, labels = (torch.stack(values) for values in zip(*((log.answers, log.labels) for log in logs), strict=True))
    correct = (answers == labels).float()
    if logs[0].batch.valid is None:
        return correct.mean(-1)
    valid = torch.stack([log.batch.valid for log in logs if log.batch.valid is not None])
    return torch.where(valid, correct, 0).sum(-1) / valid.sum(-1).clamp_min(1)
