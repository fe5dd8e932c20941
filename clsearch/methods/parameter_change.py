"""Penalties on the change of parameters: elastic weight consolidation (Kirkpatrick et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clsearch.config.sections import Scenario
from clsearch.methods.base import Hyperparameters, Memory, Penalty, Student, recalled
from clsearch.methods.fisher import Fisher, scaled
from clsearch.methods.penalty_output import Terms
from clsearch.networks.mlp import Network, Params, allowed_mask, is_head
from clsearch.tasks.benchmark import Benchmark, Task
from clsearch.tasks.samples import Batch


@dataclass(frozen=True)
class ParameterChange:
    """Elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3) with a free exponent:
    penalty_factor * Σ_{k<t} Σ_i F_{k,i} |θ_i - θ*_{k,i}|^p.

    Penalised are the backbone and, where it is shared (domain- and class-incremental), the head.

    fisher, scale: how F is measured and scaled. average: divide the sum over tasks by t.
    online: a gamma instead of None keeps one anchor, the newest, with F <- gamma F + F_new (Schwarz et al. 2018).
    merged: p is 2, so the sum over tasks is one quadratic and a constant.
    """

    merged: bool
    average: bool
    fisher: Fisher
    scale: str
    online: float | None

    @property
    def logs(self) -> tuple[str, ...]:
        return ()

    @property
    def trains_head(self) -> bool:
        return False

    def prepare(
        self, network: Network, benchmark: Benchmark, task: Task, memory: Memory, hyperparameters: Hyperparameters
    ) -> Penalty | None:
        old = benchmark.retained(task.index - 1)
        if not old:
            return None
        kept = old if self.online is None else old[-1:]
        names = tuple(recalled(memory, f"anchor/{kept[0]}/"))
        importance, anchors = (
            torch.stack([joined(recalled(memory, f"{what}/{k}/"), names) for k in kept])
            for what in ("importance", "anchor")
        )
        factor = hyperparameters["penalty_factor"] / (len(old) + 1 if self.average else 1)
        if self.merged:
            return merged_quadratic(importance, anchors, factor, names)
        p = hyperparameters["penalty_p_norm"][:, None]

        def penalty(student: Student, batch: Batch) -> Terms:
            change = PowerDistance.apply(joined(student.params, names), anchors, importance, p)
            return Terms(factor * change)

        return penalty

    def remember(self, network: Network, benchmark: Benchmark, task: Task, params: Params, memory: Memory) -> Memory:
        t = task.index
        allowed = allowed_mask(benchmark.answers(t, t), benchmark.outputs, task.train.rows.device)
        measured = self.fisher(network, params, task.train, allowed, benchmark.seeds, task.origin)
        shared = benchmark.scenario is not Scenario.TASK
        new = scaled({name: value for name, value in measured.items() if shared or not is_head(name)}, self.scale)
        if self.online is not None:
            old = recalled(memory, f"importance/{t - 1}/")
            new = {name: value + self.online * old[name] if old else value for name, value in new.items()}
            memory = {k: v for k, v in memory.items() if not k.startswith(("importance/", "anchor/"))}
        importance = {f"importance/{t}/{name}": value for name, value in new.items()}
        return memory | importance | {f"anchor/{t}/{name}": params[name] for name in new}


def joined(params: Params, names: tuple[str, ...]) -> Tensor:
    """The named parameters of each member as one vector: [M, P]."""
    return torch.cat([params[name].flatten(1) for name in names], 1)


def merged_quadratic(importance: Tensor, anchors: Tensor, factor: Tensor, names: tuple[str, ...]) -> Penalty:
    """Σ_k F_k (θ-θ*_k)² as one quadratic about the importance-weighted mean anchor, plus what that leaves constant.

    importance, anchors: [K, M, P]; factor: [M]. Where Σ_k F_k = 0 the anchor is the newest one. The mean is taken of
    the differences to the newest, so that a single anchor stays exactly itself: every task starts there, and Adam makes
    much of any rounding.
    """
    total = importance.sum(0)
    shift = (importance * (anchors - anchors[-1])).sum(0) / torch.where(total > 0, total, 1)
    center = anchors[-1] + shift
    constant = (importance * (anchors - center).square()).sum((0, 2))

    def penalty(student: Student, batch: Batch) -> Terms:
        return Terms(factor * (Quadratic.apply(joined(student.params, names), center, total) + constant))

    return penalty


class Quadratic(torch.autograd.Function):
    """Σ_i F_i (θ_i - c_i)² for θ, c, F [M, P]; gives [M]. Value and gradient share one pass."""

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


CACHED = 2**18
"""Numbers that one pass over anchors handles on a CPU, so that its buffers stay in the cache."""


class PowerDistance(torch.autograd.Function):
    """Σ_k Σ_i F_{k,i} |θ_i - θ*_{k,i}|^p for θ [M, P], anchors and importance [K, M, P], p [M, 1]; gives [M].

    Its gradient is finite everywhere, and 0 at θ = θ* for p = 1 too, where every task starts. Value and gradient share
    one power.
    """

    @staticmethod
    def forward(ctx, theta: Tensor, anchors: Tensor, importance: Tensor, p: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        value, slopes = theta.new_zeros(len(theta)), torch.zeros_like(theta)
        at_once = len(anchors) if theta.is_cuda else max(1, CACHED // theta.numel())
        for own, weights in zip(anchors.split(at_once), importance.split(at_once), strict=True):
            change = theta - own
            size = change.abs()
            # exp2(log2(.)) takes half the time of pow with a tensor exponent; the floor keeps log2(0) out of a NaN.
            slope = size.clamp_min(torch.finfo(size.dtype).tiny).log2_().mul_(p - 1).exp2_().mul_(weights)
            value = value + size.mul_(slope).sum((0, 2))
            slopes += slope.mul_(change.sign_()).sum(0)
        ctx.save_for_backward(p * slopes)
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        (slope,) = ctx.saved_tensors
        return gradient[:, None] * slope, None, None, None
