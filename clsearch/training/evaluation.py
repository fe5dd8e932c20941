"""Evaluate a model's accuracy on the samples of each task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clsearch.methods.base import TrainingScheme
from clsearch.networks.mlp import Params, mask_logits, output_mask
from clsearch.tasks.samples import Samples
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import TrialSetup


def measure_accuracies(trial: TrialSetup, params: Params, learned: int, samples: Sequence[Samples]) -> Tensor:
    """Measure the accuracy on every task after learning some of them.

    Args:
        trial: The trial's setup.
        params: Name -> [M, ...].
        learned: Number of tasks learned.
        samples: Samples of each task of the benchmark.

    Returns:
        [M, T] float64, NaN if undefined.
    """
    row = torch.full((len(trial.seeds), len(trial.benchmark.tasks)), torch.nan, dtype=torch.float64)
    for task, task_samples in zip(trial.benchmark.tasks, samples, strict=True):
        active = trial.benchmark.active_outputs(learned, task.index)
        if active and trial.benchmark.is_defined(learned, task.index):
            row[:, task.index - 1] = measure_accuracy(trial, params, active, task_samples)
    return row


@torch.no_grad()
def measure_accuracy(trial: TrialSetup, params: Params, active: tuple[int, ...], samples: Samples) -> Tensor:
    """Measure the accuracy on samples of one task.

    Args:
        trial: The trial's setup.
        params: Name -> [M, ...].
        active: The active outputs.
        samples: Samples of each member.

    Returns:
        [M] float64.
    """
    allowed = output_mask(active, trial.benchmark.outputs, trial.device)
    correct = torch.zeros(len(trial.seeds), dtype=torch.float64, device=trial.device)
    for batch in samples.in_order(trial.network.eval_batch_size):
        inputs, labels = samples.take(batch.positions)
        logits = trial.network.logits(params, trial.network.features(params, inputs))
        correct += batch.sum((mask_logits(logits, allowed).argmax(-1) == labels).double())
    return correct.cpu() / torch.tensor(samples.sizes)


def measure_row(trial: TrialSetup, state: TrialState, accuracy: Tensor, samples: Sequence[Samples]) -> Tensor:
    """Fill the row of the accuracy matrix that belongs to a state.

    Args:
        trial: The trial's setup.
        state: The state to evaluate.
        accuracy: [M, T+1, T], the matrix so far.
        samples: Samples of each task of the benchmark.

    Returns:
        A copy of `accuracy` with row `state.tasks_learned`.
    """
    t = state.tasks_learned
    row = measure_accuracies(trial, state.params, t, samples)
    if t and trial.scheme is TrainingScheme.INDEPENDENT:  # each task has its own network; later tasks have none yet
        row = torch.where(torch.arange(row.shape[1]) == t - 1, row, accuracy[:, t - 1])
        row[:, t:] = torch.nan
    filled = accuracy.clone()
    filled[:, t] = row
    return filled


def drop_unlearned(accuracy: Tensor, unlearning: dict[str, Tensor]) -> Tensor:
    """Replace the cells of unlearned tasks by NaN.

    Args:
        accuracy: R, [M, T+1, T].
        unlearning: Measurements of unlearning, see `metrics.Unlearning`; empty before the first request.
    """
    return torch.where(unlearning["chance"].isnan(), accuracy, torch.nan) if unlearning else accuracy
