"""Evaluate a model's accuracy on the samples of each task."""

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
    """Measure the accuracy on every task after learning some of them.

    Args:
        run: The trial's setup.
        params: Name -> [M, ...].
        learned: Number of tasks learned.
        samples: Samples of each task of the benchmark.

    Returns:
        [M, T] float64, NaN if undefined.
    """
    row = torch.full((len(run.seeds), len(run.benchmark.tasks)), torch.nan, dtype=torch.float64)
    for task, task_samples in zip(run.benchmark.tasks, samples, strict=True):
        active = run.benchmark.answers(learned, task.index)
        if active and run.benchmark.is_defined(learned, task.index):
            row[:, task.index - 1] = accuracy_on(run, params, active, task_samples)
    return row


@torch.no_grad()
def accuracy_on(run: Run, params: Params, active: tuple[int, ...], samples: Samples) -> Tensor:
    """Measure the accuracy on samples of one task.

    Args:
        run: The trial's setup.
        params: Name -> [M, ...].
        active: The active outputs.
        samples: Samples of each member.

    Returns:
        [M] float64.
    """
    allowed = allowed_mask(active, run.benchmark.outputs, run.device)
    correct = torch.zeros(len(run.seeds), dtype=torch.float64, device=run.device)
    for batch in samples.in_order(run.network.at_once):
        inputs, labels = samples.take(batch.positions)
        logits = run.network.logits(params, run.network.features(params, inputs))
        correct += batch.sum((restricted(logits, allowed).argmax(-1) == labels).double())
    return correct.cpu() / torch.tensor(samples.sizes)


def measured(run: Run, state: TrialState, accuracy: Tensor, samples: Sequence[Samples]) -> Tensor:
    """Fill the row of the accuracy matrix that belongs to a state.

    Args:
        run: The trial's setup.
        state: The state to evaluate.
        accuracy: [M, T+1, T], the matrix so far.
        samples: Samples of each task of the benchmark.

    Returns:
        A copy of `accuracy` with row `state.tasks_learned`.
    """
    t = state.tasks_learned
    row = accuracies(run, state.params, t, samples)
    if t and run.scheme is TrainingScheme.INDEPENDENT:  # each task has its own network; later tasks have none yet
        row = torch.where(torch.arange(row.shape[1]) == t - 1, row, accuracy[:, t - 1])
        row[:, t:] = torch.nan
    filled = accuracy.clone()
    filled[:, t] = row
    return filled


def of_retained(accuracy: Tensor, unlearning: dict[str, Tensor]) -> Tensor:
    """Replace the cells of unlearned tasks by NaN.

    Args:
        accuracy: R, [M, T+1, T].
        unlearning: Measurements of unlearning, see `metrics.Unlearning`; empty before the first request.
    """
    return torch.where(unlearning["chance"].isnan(), accuracy, torch.nan) if unlearning else accuracy
