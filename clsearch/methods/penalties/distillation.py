"""Distillation: the outputs of frozen teachers, summarized for the steps of a task.

Teachers are stacked like members, so one call runs all of them, and their targets are summed before the steps: Σ_k -Σ_c
q_kc log p_kc = Σ_k logsumexp_k(z/τ) - Σ_c (Σ_k q_kc) z_c/τ, one pass for any number of teachers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clsearch.networks.mlp import Network, Params
from clsearch.tasks.benchmark import Task
from clsearch.tasks.samples import Batch


@dataclass(frozen=True)
class DistillationTarget:
    """One term of the distillation sum.

    Args:
        teacher: Index of the task whose snapshot is the teacher.
        columns: The distilled outputs.
        weight: Multiplicity of the term.
    """

    teacher: int
    columns: tuple[int, ...]
    weight: float = 1.0


TeacherSummary = dict[str, Tensor]
"""The teachers' outputs as a step needs them, [M, B] or [M, B, C] each; see `soften` and `center`."""

TeacherLogits = Callable[[Tensor], dict[int, Tensor]]
"""Inputs [M, B, D] -> teacher -> its logits [M, B, C]."""


def teacher_logits(network: Network, teachers: dict[int, Params]) -> TeacherLogits:
    """Return a function that runs all teachers of all members in one call.

    Args:
        network: Backbone and head over stacked members.
        teachers: Teacher -> its parameters, name -> [M, ...].
    """
    names, count = next(iter(teachers.values())), len(teachers)
    stacked = {name: torch.cat([params[name] for params in teachers.values()]) for name in names}

    def ask(inputs: Tensor) -> dict[int, Tensor]:
        repeated = inputs.expand(count, *inputs.shape).flatten(0, 1)
        logits = network.logits(stacked, network.features(stacked, repeated))
        return dict(zip(teachers, logits.unflatten(0, (count, -1)), strict=True))

    return ask


@torch.no_grad()
def summarize(
    ask: TeacherLogits, inputs: Tensor, targets: list[DistillationTarget], temperature: Tensor, centered: bool
) -> TeacherSummary:
    """Summarize the teachers' outputs.

    Args:
        ask: Runs the teachers.
        inputs: [M, B, D].
        targets: Terms of the distillation sum.
        temperature: [M, 1, 1].
        centered: Also summarize for the mean squared error of logits.
    """
    logits = ask(inputs)
    softened = soften(logits, targets, temperature)
    return softened | center(logits, targets) if centered else softened


def summarize_task(task: Task, summarize: Callable[[Tensor], TeacherSummary], size: int) -> TeacherSummary:
    """Summarize the teachers' outputs on all training data of a task.

    Args:
        task: The task.
        summarize: Inputs [M, B, D] -> summary.
        size: Samples per pass.
    """
    parts = [summarize(task.train.take(batch.positions)[0]) for batch in task.train.in_order(size)]
    return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}


def soften(logits: dict[int, Tensor], targets: list[DistillationTarget], temperature: Tensor) -> TeacherSummary:
    """Sum the teachers' softened outputs.

    Args:
        logits: Teacher -> [M, B, C].
        targets: Terms of the distillation sum.
        temperature: [M, 1, 1].

    Returns:
        "targets" -> Σ_k w_k q_k [M, B, C], and "entropies" -> Σ_k w_k H(q_k) [M, B] in nats.
    """
    summed = torch.zeros_like(next(iter(logits.values())))
    entropies = torch.zeros_like(summed[..., 0])
    for target in targets:
        logs = (logits[target.teacher][..., list(target.columns)] / temperature).log_softmax(-1)
        summed[..., list(target.columns)] += target.weight * logs.exp()
        entropies -= target.weight * (logs.exp() * logs).sum(-1)
    return {"targets": summed, "entropies": entropies}


def center(logits: dict[int, Tensor], targets: list[DistillationTarget]) -> TeacherSummary:
    """Merge Σ_k w_k mean_c (z_c - u_kc)² into one square per output about the teachers' weighted mean.

    Args:
        logits: Teacher -> its logits u_k [M, B, C].
        targets: Terms of the distillation sum.

    Returns:
        "centers" -> the weighted means [M, B, C], and "constants" -> the teachers' spread about them [M, B].
    """
    like = next(iter(logits.values()))
    weights = output_weights(targets, like.shape[-1], like.device)
    sums, squares = torch.zeros_like(like), torch.zeros_like(like)
    for target in targets:
        columns, weight = list(target.columns), target.weight / len(target.columns)
        sums[..., columns] += weight * logits[target.teacher][..., columns]
    centers = sums / torch.where(weights > 0, weights, 1)
    for target in targets:
        columns, weight = list(target.columns), target.weight / len(target.columns)
        squares[..., columns] += weight * (logits[target.teacher] - centers)[..., columns].square()
    return {"centers": centers, "constants": squares.sum(-1)}


def output_weights(targets: list[DistillationTarget], outputs: int, device: torch.device) -> Tensor:
    """Return Σ_k w_k / (number of outputs of target k) over the targets that have an output, [C]."""
    weights = torch.zeros(outputs, device=device)
    for target in targets:
        weights[list(target.columns)] += target.weight / len(target.columns)
    return weights


def gather_batch(values: Tensor, batch: Batch) -> Tensor:
    """Select `values` [M, n] or [M, n, C] at a batch's positions: [M, B] or [M, B, C]."""
    if values.dim() == 2:
        return values.gather(1, batch.positions)
    return values.gather(1, batch.positions[:, :, None].expand(-1, -1, values.shape[2]))


def log_normalizer(targets: list[DistillationTarget], device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the function z/τ [M, B, C] of the student -> Σ_k w_k logsumexp_k(z/τ) [M, B]."""
    columns, padding, weights = column_groups(targets, device)
    ragged, weighed = bool(padding.any()), bool((weights != 1).any())  # skip additions and products without effect

    def normalize(scaled_logits: Tensor) -> Tensor:
        grouped = scaled_logits[..., columns] + padding if ragged else scaled_logits[..., columns]
        return grouped.logsumexp(-1) @ weights if weighed else grouped.logsumexp(-1).sum(-1)

    return normalize


def column_groups(targets: list[DistillationTarget], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct sets of outputs of the targets, padded to one width.

    Returns:
        columns [G, c] of the logits, padding [G, c] (0, or -inf where a group is shorter), weights [G].
    """
    weights: dict[tuple[int, ...], float] = {}
    for target in targets:
        weights[target.columns] = weights.get(target.columns, 0.0) + target.weight
    width = max(map(len, weights))
    columns = [[*group, *[0] * (width - len(group))] for group in weights]
    padding = [[0.0] * len(group) + [-torch.inf] * (width - len(group)) for group in weights]
    return (
        torch.tensor(columns, device=device),
        torch.tensor(padding, device=device),
        torch.tensor(list(weights.values()), device=device),
    )
