"""Knowledge distillation: Learning without Forgetting (Li & Hoiem 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clsearch.core.benchmarks import Benchmark, Task
from clsearch.core.networks import Network, Params, is_head
from clsearch.core.parts import Scenario
from clsearch.core.regularizers import Hyperparameters, Memory, Penalty, Student, Terms, recalled
from clsearch.core.samples import Batch


@dataclass(frozen=True)
class Voice:
    """One term of the distillation sum: whose outputs `columns` are distilled, and how often the term counts."""

    teacher: int
    columns: tuple[int, ...]
    weight: float = 1.0


Distance = Callable[[Tensor, Batch], Tensor]
"""(student logits [M, B, C], batch) -> [M]."""


@dataclass(frozen=True)
class Distillation:
    """Learning without Forgetting (Li & Hoiem 2017, eq. 2-4): distillation_factor * Σ_{k<t} D_k.

    D_k is the mean over the batch of, by `distance`, with q = softmax(teacher / τ), p = softmax(student / τ) over the
    classes for which teacher k speaks:
    cross_entropy   -Σ_c q_c log p_c
    kl              Σ_c q_c log(q_c / p_c): the same gradient, without the teacher's entropy
    mse             mean over the classes of (student - teacher)², of logits
    Logs `kl` in any case, because its value compares across τ.

    newest_only: the newest snapshot answers for every old task, instead of one snapshot per task.
    train_head: whether the gradient reaches the head. squared: multiply by τ² (Hinton et al. 2015).
    """

    newest_only: bool
    train_head: bool
    distance: str
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
        self, network: Network, benchmark: Benchmark, task: Task, memory: Memory, hyperparameters: Hyperparameters
    ) -> Penalty | None:
        if task.index == 1:
            return None
        voices = self.voices(benchmark, task.index)
        teachers = {voice.teacher: recalled(memory, f"teacher/{voice.teacher}/") for voice in voices}
        cross_entropy, entropy = softened(network, task, teachers, voices, hyperparameters["distillation_temperature"])
        squared_error = squared_errors(network, task, teachers, voices) if self.distance == "mse" else None
        scale = hyperparameters["distillation_factor"]
        if self.squared:
            scale = scale * hyperparameters["distillation_temperature"].square()

        def penalty(student: Student, batch: Batch) -> Terms:
            logits = self._logits(network, student)
            if squared_error is not None:
                distance = squared_error(logits, batch)
                kl = cross_entropy(logits.detach(), batch) - entropy(batch)
            else:
                distance = cross_entropy(logits, batch)
                kl = distance - entropy(batch)
            return Terms(scale * (kl if self.distance == "kl" else distance), {"kl": kl.detach()})

        return penalty

    def _logits(self, network: Network, student: Student) -> Tensor:
        if self.train_head:
            return student.logits
        frozen = {name: v.detach() for name, v in student.params.items() if is_head(name)}
        return network.logits(frozen, student.features)

    def remember(self, network: Network, benchmark: Benchmark, task: Task, params: Params, memory: Memory) -> Memory:
        kept = {} if self.newest_only else {k: v for k, v in memory.items() if k.startswith("teacher/")}
        others = {k: v for k, v in memory.items() if not k.startswith("teacher/")}
        return others | kept | {f"teacher/{task.index}/{name}": v for name, v in params.items()}


def teacher_logits(network: Network, task: Task, teachers: dict[int, Params]) -> Iterator[dict[int, Tensor]]:
    """What each teacher says about a task's training data, [M, <= 1024, C] at a time."""
    for batch in task.train.in_order():
        inputs, _ = task.train.take(batch.positions)
        yield {k: network.logits(params, network.features(params, inputs)) for k, params in teachers.items()}


@torch.no_grad()
def softened(
    network: Network, task: Task, teachers: dict[int, Params], voices: list[Voice], temperatures: Tensor
) -> tuple[Distance, Callable[[Batch], Tensor]]:
    """Σ_k w_k D_k in cross-entropy, and the part of it that is the teachers' own entropy Σ_k w_k H(q_k), in nats.

    temperatures: [M]. The targets are summed over the teachers beforehand,
    Σ_k -Σ_c q_kc log p_kc = Σ_k logsumexp_k(z/τ) - Σ_c (Σ_k q_kc) z_c/τ: one pass however many teachers there are.
    """
    temperature = temperatures[:, None, None]
    all_targets, all_entropies = [], []
    for logits in teacher_logits(network, task, teachers):
        target = torch.zeros_like(next(iter(logits.values())))
        own = torch.zeros(target.shape[:2], device=target.device)
        for voice in voices:
            logs = (logits[voice.teacher][..., list(voice.columns)] / temperature).log_softmax(-1)
            target[..., list(voice.columns)] += voice.weight * logs.exp()
            own -= voice.weight * (logs.exp() * logs).sum(-1)
        all_targets.append(target)
        all_entropies.append(own)
    targets, entropies = torch.cat(all_targets, 1), torch.cat(all_entropies, 1)
    columns, padding, weights = column_groups(voices, targets.device)

    def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
        student = logits / temperature
        normalizers = (student[..., columns] + padding).logsumexp(-1) @ weights
        agreement = (at(targets, batch) * student).sum(-1)
        return batch.mean(normalizers - agreement)

    def entropy(batch: Batch) -> Tensor:
        return batch.mean(entropies.gather(1, batch.positions))

    return cross_entropy, entropy


@torch.no_grad()
def squared_errors(network: Network, task: Task, teachers: dict[int, Params], voices: list[Voice]) -> Distance:
    """Σ_k w_k mean_c (z_c - u_kc)², merged: for each output, one square about the teachers' weighted mean, and the
    teachers' spread about it, which is constant.
    """
    all_centers, all_constants = [], []
    for logits in teacher_logits(network, task, teachers):
        like = next(iter(logits.values()))
        weights = torch.zeros(like.shape[-1], device=like.device)
        sums, squares = torch.zeros_like(like), torch.zeros_like(like)
        for voice in voices:
            columns, weight = list(voice.columns), voice.weight / len(voice.columns)
            weights[columns] += weight
            sums[..., columns] += weight * logits[voice.teacher][..., columns]
        center = sums / torch.where(weights > 0, weights, 1)
        for voice in voices:
            columns, weight = list(voice.columns), voice.weight / len(voice.columns)
            squares[..., columns] += weight * (logits[voice.teacher] - center)[..., columns].square()
        all_centers.append(center)
        all_constants.append(squares.sum(-1))
    centers, constants = torch.cat(all_centers, 1), torch.cat(all_constants, 1)

    def squared_error(logits: Tensor, batch: Batch) -> Tensor:
        change = logits - at(centers, batch)
        return batch.mean((change.square() @ weights) + constants.gather(1, batch.positions))

    return squared_error


def at(values: Tensor, batch: Batch) -> Tensor:
    """`values` [M, n, C] at a batch's positions: [M, B, C]."""
    return values.gather(1, batch.positions[:, :, None].expand(-1, -1, values.shape[2]))


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
