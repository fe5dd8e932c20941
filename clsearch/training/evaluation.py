"""Accuracy of a model on the samples of each task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clsearch.methods.base import TrainingScheme
from clsearch.networks.mlp import Params, allowed_mask, restricted
from clsearch.tasks.samples import Samples
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import Run


def accuracies(run: Run, params: Params, learned: int, samples: Sequence[Samples]) -> Tensor:
    """Accuracy after learning `learned` tasks on the samples of every task, [M, T] float64, NaN where undefined."""
    row = torch.full((len(run.seeds), len(run.benchmark.tasks)), torch.nan, dtype=torch.float64)
    for task, own in zip(run.benchmark.tasks, samples, strict=True):
        answers = run.benchmark.answers(learned, task.index)
        if answers and run.benchmark.is_defined(learned, task.index):
            row[:, task.index - 1] = accuracy_on(run, params, answers, own)
    return row


@torch.no_grad()
def accuracy_on(run: Run, params: Params, answers: tuple[int, ...], samples: Samples) -> Tensor:
    """Accuracy on samples where one of `answers` (outputs) may be answered, [M] float64."""
    allowed = allowed_mask(answers, run.benchmark.outputs, run.device)
    correct = torch.zeros(len(run.seeds), dtype=torch.float64, device=run.device)
    for batch in samples.in_order(run.network.at_once):
        inputs, labels = samples.take(batch.positions)
        logits = run.network.logits(params, run.network.features(params, inputs))
        correct += batch.sum((restricted(logits, allowed).argmax(-1) == labels).double())
    return correct.cpu() / torch.tensor(samples.sizes)


def measured(run: Run, state: TrialState, accuracy: Tensor, samples: Sequence[Samples]) -> Tensor:
    """`accuracy` [M, T+1, T] with the row of the tasks that a state has learned, measured on each task's `samples`."""
    t = state.tasks_learned
    row = accuracies(run, state.params, t, samples)
    if (
        t and run.scheme is TrainingScheme.INDEPENDENT
    ):  # each task's own network answers for it; later tasks have none yet
        row = torch.where(torch.arange(row.shape[1]) == t - 1, row, accuracy[:, t - 1])
        row[:, t:] = torch.nan
    found = accuracy.clone()
    found[:, t] = row
    return found


def of_retained(accuracy: Tensor, unlearning: dict[str, Tensor]) -> Tensor:
    """R [M, T+1, T] without the cells of tasks that were unlearned by then."""
    return torch.where(unlearning["chance"].isnan(), accuracy, torch.nan) if unlearning else accuracy
