"""Penalties on the change of parameters since earlier tasks, weighted by importance; value and gradient in one pass.

EWC uses them with Fisher information. Anchors and importances are [K, M, P], for K anchors, M members and P penalized
parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clsearch.methods.base import Penalty, PenaltyOutput, Student
from clsearch.networks.mlp import Params
from clsearch.tasks.samples import Batch

MAX_CACHE_ELEMENTS = 2**18
"""Elements that one pass over anchors handles on a CPU, so that its buffers stay in the cache."""


def flatten_members(params: Params, names: tuple[str, ...]) -> Tensor:
    """Concatenate the named parameters of each member to [M, P]."""
    return torch.cat([params[name].flatten(1) for name in names], 1)


def stack_tasks(tasks: Sequence[Params], names: tuple[str, ...]) -> Tensor:
    """Stack the named parameters of several tasks to [K, M, P]."""
    return torch.stack([flatten_members(params, names) for params in tasks])


def p_norm_penalty(importance: Tensor, anchors: Tensor, factor: Tensor, p: Tensor, names: tuple[str, ...]) -> Penalty:
    """Return the penalty factor * Σ_k Σ_i F_{k,i} |θ_i - θ*_{k,i}|^p.

    Args:
        importance: F, [K, M, P].
        anchors: θ*, [K, M, P].
        factor: [M].
        p: [M].
        names: Names of the penalized parameters, in the order of P.
    """

    def penalty(student: Student, batch: Batch) -> PenaltyOutput:
        change = PNormPenalty.apply(flatten_members(student.params, names), anchors, importance, p[:, None])
        return PenaltyOutput(factor * change)

    return penalty


def merged_quadratic(importance: Tensor, anchors: Tensor, factor: Tensor, names: tuple[str, ...]) -> Penalty:
    """Return the penalty factor * Σ_k Σ_i F_{k,i} (θ_i - θ*_{k,i})² as one quadratic plus a constant.

    The quadratic's centre is the importance-weighted mean anchor; where Σ_k F_k = 0, it is the newest anchor. The mean
    is computed from differences to the newest anchor, so a single anchor stays exact: every task starts there, and Adam
    amplifies rounding errors.

    Args:
        importance: F, [K, M, P].
        anchors: θ*, [K, M, P].
        factor: [M].
        names: Names of the penalized parameters, in the order of P.
    """
    total = importance.sum(0)
    shift = (importance * (anchors - anchors[-1])).sum(0) / torch.where(total > 0, total, 1)
    center = anchors[-1] + shift
    constant = (importance * (anchors - center).square()).sum((0, 2))

    def penalty(student: Student, batch: Batch) -> PenaltyOutput:
        return PenaltyOutput(
            factor * (Quadratic.apply(flatten_members(student.params, names), center, total) + constant)
        )

    return penalty


class Quadratic(torch.autograd.Function):
    """Σ_i F_i (θ_i - c_i)² [M] of θ, c, F [M, P]; value and gradient share one pass."""

    @staticmethod
    def forward(ctx, theta: Tensor, center: Tensor, importance: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        change = theta - center
        slope = change * importance
        value = (slope * change).sum(1)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        (slope,) = ctx.saved_tensors
        return 2 * gradient[:, None] * slope, None, None


class PNormPenalty(torch.autograd.Function):
    """Σ_k Σ_i F_{k,i} |θ_i - θ*_{k,i}|^p [M] of θ [M, P], θ* and F [K, M, P], p [M, 1].

    The gradient is finite everywhere, and 0 at θ = θ* also for p = 1, because every task starts there. Value and
    gradient share one power.
    """

    @staticmethod
    def forward(ctx, theta: Tensor, anchors: Tensor, importance: Tensor, p: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        value, slopes = theta.new_zeros(len(theta)), torch.zeros_like(theta)
        chunk = len(anchors) if theta.is_cuda else max(1, MAX_CACHE_ELEMENTS // theta.numel())
        for anchor, weights in zip(anchors.split(chunk), importance.split(chunk), strict=True):
            change = theta - anchor
            size = change.abs()
            # exp2(log2(.)) takes half the time of pow with a tensor exponent; the floor avoids NaN from log2(0).
            slope = size.clamp_min(torch.finfo(size.dtype).tiny).log2_().mul_(p - 1).exp2_().mul_(weights)
            value = value + size.mul_(slope).sum((0, 2))
            slopes += slope.mul_(change.sign_()).sum(0)
        ctx.save_for_backward(p * slopes)
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        (slope,) = ctx.saved_tensors
        return gradient[:, None] * slope, None, None, None
