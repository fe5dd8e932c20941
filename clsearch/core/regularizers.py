"""What continual learning adds to the loss: knowledge distillation (LwF) and parameter change (EWC).

A regularizer has no state of its own. What it must remember of earlier tasks is a dict of tensors (the memory), part
of the trial's state. Before a task it is prepared once: whatever does not change during the task is computed there,
and out comes the function that a training step calls. So a step of distillation, or of a penalty with p = 2, costs the
same at task 20 as at task 2; with another p it grows with the old tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from clsearch.core.benchmarks import Benchmark, Task
from clsearch.core.config import Scenario
from clsearch.core.importance import empirical_fisher
from clsearch.core.networks import MLP, Params, allowed_mask, is_head

Memory = dict[str, Tensor]
Hyperparameters = dict[str, Tensor]
"""Name -> [M], one number per member."""


@dataclass(frozen=True)
class Student:
    """The network in training, on one batch: parameters, features [M, B, H], logits [M, B, C]."""

    params: Params
    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Terms:
    """penalty: [M] as it enters the loss, factor included. logged: name -> [M], reported beside it."""

    penalty: Tensor
    logged: dict[str, Tensor] = field(default_factory=dict)


Penalty = Callable[[Student, Tensor], Terms]
"""(student, positions [M, B] of the batch in the task's training data) -> Terms."""


class Regularizer(Protocol):
    """logs: names that its penalties log. trains_head: whether its gradient reaches outputs of earlier tasks."""

    @property
    def logs(self) -> tuple[str, ...]: ...

    @property
    def trains_head(self) -> bool: ...

    def prepare(
        self, network: MLP, benchmark: Benchmark, task: Task, memory: Memory, hyperparameters: Hyperparameters
    ) -> Penalty | None:
        """The penalty of a task, or None where there is nothing to hold on to (the first task)."""
        ...

    def remember(self, network: MLP, benchmark: Benchmark, task: Task, params: Params, memory: Memory) -> Memory:
        """Memory with what must be kept of a task just learned."""
        ...


@dataclass(frozen=True)
class Voice:
    """One term of the distillation sum: whose outputs `columns` are distilled, and how often the term counts."""

    teacher: int
    columns: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Distillation:
    """Learning without Forgetting (Li & Hoiem 2017, eq. 2-4): distillation_factor * Σ_{k<t} D_k.

    D_k is the batch mean of -Σ_c q_c log p_c with q = softmax(teacher / τ), p = softmax(student / τ) over the classes
    for which teacher k speaks. Logs `kl`, the same sum with the teachers' entropy taken off, so that its value compares
    across τ.

    newest_only: the newest snapshot answers for every old task, instead of one snapshot per task.
    train_head: whether the gradient reaches the head. squared: multiply by τ² (Hinton et al. 2015).
    """

    newest_only: bool
    train_head: bool
    squared: bool

    @property
    def logs(self) -> tuple[str, ...]:
        return ("kl",)

    @property
    def trains_head(self) -> bool:
        return self.train_head

    def voices(self, benchmark: Benchmark, t: int) -> list[Voice]:
        """Who speaks for what while task t is learned."""
        newest = t - 1
        if benchmark.scenario is Scenario.CLASS and self.newest_only:
            return [Voice(newest, benchmark.seen(newest))]
        if benchmark.scenario is Scenario.DOMAIN and self.newest_only:
            return [Voice(newest, tuple(range(benchmark.outputs)), weight=t - 1)]
        return [Voice(newest if self.newest_only else k, benchmark.answers(k, k)) for k in range(1, t)]

    def prepare(
        self, network: MLP, benchmark: Benchmark, task: Task, memory: Memory, hyperparameters: Hyperparameters
    ) -> Penalty | None:
        if task.index == 1:
            return None
        temperature = hyperparameters["distillation_temperature"][:, None, None]
        voices = self.voices(benchmark, task.index)
        targets, entropy = teacher_targets(network, task, memory, voices, temperature)
        columns, padding, weights = column_groups(voices, targets.device)
        scale = hyperparameters["distillation_factor"]
        if self.squared:
            scale = scale * hyperparameters["distillation_temperature"].square()

        def penalty(student: Student, positions: Tensor) -> Terms:
            softened = self._logits(network, student) / temperature
            # Σ_k -Σ_c q_kc log p_kc = Σ_k logsumexp_k(z/τ) - Σ_c (Σ_k q_kc) z_c/τ: one pass whatever the number
            # of teachers, because the q_k were summed beforehand.
            normalizers = (softened[..., columns] + padding).logsumexp(-1) @ weights
            index = positions[:, :, None].expand(-1, -1, targets.shape[2])
            agreement = (targets.gather(1, index) * softened).sum(-1)
            distance = (normalizers - agreement).mean(1)
            return Terms(scale * distance, {"kl": (distance - entropy.gather(1, positions).mean(1)).detach()})

        return penalty

    def _logits(self, network: MLP, student: Student) -> Tensor:
        if self.train_head:
            return student.logits
        frozen = {name: v.detach() for name, v in student.params.items() if is_head(name)}
        return network.logits(frozen, student.features)

    def remember(self, network: MLP, benchmark: Benchmark, task: Task, params: Params, memory: Memory) -> Memory:
        kept = {} if self.newest_only else {k: v for k, v in memory.items() if k.startswith("teacher/")}
        others = {k: v for k, v in memory.items() if not k.startswith("teacher/")}
        return others | kept | {f"teacher/{task.index}/{name}": v for name, v in params.items()}


@torch.no_grad()
def teacher_targets(
    network: MLP, task: Task, memory: Memory, voices: list[Voice], temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """What the teachers say about a task's training data, at temperature [M, 1, 1].

    Returns: Σ_k w_k q_k, [M, n, C], and Σ_k w_k H(q_k), [M, n] in nats.
    """
    teachers = {voice.teacher: recalled(memory, f"teacher/{voice.teacher}/") for voice in voices}
    targets, entropies = [], []
    for positions in task.train.chunks():
        inputs, _ = task.train.batch(positions)
        logits = {k: network.logits(p, network.features(p, inputs)) for k, p in teachers.items()}
        target = torch.zeros_like(next(iter(logits.values())))
        entropy = torch.zeros(target.shape[:2], device=target.device)
        for voice in voices:
            logs = (logits[voice.teacher][..., list(voice.columns)] / temperature).log_softmax(-1)
            target[..., list(voice.columns)] += voice.weight * logs.exp()
            entropy -= voice.weight * (logs.exp() * logs).sum(-1)
        targets.append(target)
        entropies.append(entropy)
    return torch.cat(targets, 1), torch.cat(entropies, 1)


def column_groups(voices: list[Voice], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct sets of outputs that voices speak for, padded to one width.

    Returns: columns [G, c] of the logits, padding [G, c] (0, or -inf where a group is shorter), weights [G].
    """
    weights: dict[tuple[int, ...], float] = {}
    for voice in voices:
        weights[voice.columns] = weights.get(voice.columns, 0.0) + voice.weight
    width = max(map(len, weights))
    columns = [[*group, *[0] * (width - len(group))] for group in weights]
    padding = [[0.0] * len(group) + [-torch.inf] * (width - len(group)) for group in weights]
    return (
        torch.tensor(columns, device=device),
        torch.tensor(padding, device=device),
        torch.tensor(list(weights.values()), device=device),
    )


def recalled(memory: Memory, prefix: str) -> Params:
    """The entries of a memory below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in memory.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class ParameterChange:
    """Elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3) with a free exponent:
    penalty_factor * Σ_{k<t} Σ_i F_{k,i} |θ_i - θ*_{k,i}|^p.

    Penalised are the backbone and, where it is shared (domain- and class-incremental), the head.
    merged: p is 2, so the sum over tasks is one quadratic and a constant. average: divide the sum by t.
    """

    merged: bool
    average: bool

    @property
    def logs(self) -> tuple[str, ...]:
        return ()

    @property
    def trains_head(self) -> bool:
        return False

    def prepare(
        self, network: MLP, benchmark: Benchmark, task: Task, memory: Memory, hyperparameters: Hyperparameters
    ) -> Penalty | None:
        if task.index == 1:
            return None
        names = tuple(recalled(memory, "importance/1/"))
        importance, anchors = (
            torch.stack([joined(recalled(memory, f"{what}/{k}/"), names) for k in range(1, task.index)])
            for what in ("importance", "anchor")
        )
        factor = hyperparameters["penalty_factor"] / (task.index if self.average else 1)
        if self.merged:
            return merged_quadratic(importance, anchors, factor, names)
        p = hyperparameters["penalty_p_norm"][:, None]

        def penalty(student: Student, positions: Tensor) -> Terms:
            change = PowerDistance.apply(joined(student.params, names), anchors, importance, p)
            return Terms(factor * change)

        return penalty

    def remember(self, network: MLP, benchmark: Benchmark, task: Task, params: Params, memory: Memory) -> Memory:
        t = task.index
        allowed = allowed_mask(benchmark.answers(t, t), benchmark.outputs, task.train.rows.device)
        fisher = empirical_fisher(network, params, task.train, allowed)
        shared = benchmark.scenario is not Scenario.TASK
        penalised = [name for name in params if shared or not is_head(name)]
        importance = {f"importance/{t}/{name}": fisher[name] for name in penalised}
        return memory | importance | {f"anchor/{t}/{name}": params[name] for name in penalised}


def joined(params: Params, names: tuple[str, ...]) -> Tensor:
    """The named parameters of each member as one vector: [M, P]."""
    return torch.cat([params[name].flatten(1) for name in names], 1)


def merged_quadratic(importance: Tensor, anchors: Tensor, factor: Tensor, names: tuple[str, ...]) -> Penalty:
    """Σ_k F_k (θ-θ*_k)² as one quadratic about the importance-weighted mean anchor, plus what that leaves constant.

    importance, anchors: [K, M, P]; factor: [M]. Where Σ_k F_k = 0 the anchor is the newest one.
    """
    total = importance.sum(0)
    center = torch.where(total > 0, (importance * anchors).sum(0) / total, anchors[-1])
    constant = (importance * (anchors - center).square()).sum((0, 2))

    def penalty(student: Student, positions: Tensor) -> Terms:
        change = joined(student.params, names) - center
        return Terms(factor * ((total * change * change).sum(1) + constant))

    return penalty


class PowerDistance(torch.autograd.Function):
    """Σ_k Σ_i F_{k,i} |θ_i - θ*_{k,i}|^p for θ [M, P], anchors and importance [K, M, P], p [M, 1]; gives [M].

    Its gradient is finite everywhere, and 0 at θ = θ* for p = 1 too, where every task starts. Value and gradient share
    one power.
    """

    @staticmethod
    def forward(ctx, theta: Tensor, anchors: Tensor, importance: Tensor, p: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        change = theta - anchors
        size = change.abs()
        # exp2(log2(.)) takes half the time of pow with a tensor exponent; the floor keeps 0 * log2(0) from being NaN.
        slope = size.clamp_min(torch.finfo(size.dtype).tiny).log2_().mul_(p - 1).exp2_().mul_(importance)
        value = (slope * size).sum((0, 2))
        ctx.save_for_backward(p * slope.mul_(change.sign()).sum(0))
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        (slope,) = ctx.saved_tensors
        return gradient[:, None] * slope, None, None, None
