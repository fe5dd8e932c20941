"""Knowledge distillation: Learning without Forgetting (Li & Hoiem 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clsearch.config.sections import Scenario
from clsearch.methods.base import Hyperparameters, Memory, Penalty, Student, recalled
from clsearch.methods.penalty_output import Terms
from clsearch.networks.mlp import Network, Params, is_head
from clsearch.tasks.benchmark import Benchmark, Task
from clsearch.tasks.samples import Batch


@dataclass(frozen=True)
class Voice:
    """One term of the distillation sum: whose outputs `columns` are distilled, and how often the term counts."""

    teacher: int
    columns: tuple[int, ...]
    weight: float = 1.0


Digest = dict[str, Tensor]
"""What a step needs of the teachers' outputs, [M, B] or [M, B, C] each; see `softened` and `centered`."""

Recall = Callable[[Student, Batch], Digest]


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
    keep_all: snapshots that do not speak are kept, too, since the newest may be dropped with an unlearned task.
    train_head: whether the gradient reaches the head. squared: multiply by τ² (Hinton et al. 2015).
    afresh: teachers are asked at each step about the inputs as the student sees them (augmented), instead of once per
    task about the training data as it is.
    visits: samples that the steps of a task take, None for whole epochs; where that is less than the task's data,
    teachers are asked at each step, too.
    """

    newest_only: bool
    train_head: bool
    distance: str
    squared: bool
    afresh: bool = False
    visits: int | None = None
    keep_all: bool = False

    @property
    def logs(self) -> tuple[str, ...]:
        return ("kl",)

    @property
    def trains_head(self) -> bool:
        return self.train_head

    def voices(self, benchmark: Benchmark, t: int) -> list[Voice]:
        """Who speaks for what while task t is learned."""
        old = benchmark.retained(t - 1)
        newest = old[-1]
        if benchmark.scenario is Scenario.CLASS and self.newest_only:
            return [Voice(newest, benchmark.seen(newest))]
        if benchmark.scenario is Scenario.DOMAIN and self.newest_only:
            return [Voice(newest, tuple(range(benchmark.outputs)), weight=len(old))]
        return [Voice(newest if self.newest_only else k, benchmark.answers(k, k)) for k in old]

    def prepare(
        self, network: Network, benchmark: Benchmark, task: Task, memory: Memory, hyperparameters: Hyperparameters
    ) -> Penalty | None:
        if not benchmark.retained(task.index - 1):
            return None
        voices = self.voices(benchmark, task.index)
        teachers = {voice.teacher: recalled(memory, f"teacher/{voice.teacher}/") for voice in voices}
        temperature = hyperparameters["distillation_temperature"][:, None, None]
        recall = self._recall(network, task, teachers, voices, temperature)
        normalizer = normalizers(voices, temperature.device)
        scale = hyperparameters["distillation_factor"]
        if self.squared:
            scale = scale * hyperparameters["distillation_temperature"].square()
        spoken = speaking(voices, benchmark.outputs, scale.device)

        def penalty(student: Student, batch: Batch) -> Terms:
            said, logits = recall(student, batch), self._logits(network, student)
            warm = (logits.detach() if self.distance == "mse" else logits) / temperature
            agreement = (said["targets"] * warm).sum(-1)
            distance = batch.mean(normalizer(warm) - agreement)
            kl = distance - batch.mean(said["entropies"])
            if self.distance == "mse":
                squares = (logits - said["centers"]).square() @ spoken
                distance = batch.mean(squares + said["constants"])
            return Terms(scale * (kl if self.distance == "kl" else distance), {"kl": kl})

        return penalty

    def _recall(
        self, network: Network, task: Task, teachers: dict[int, Params], voices: list[Voice], temperature: Tensor
    ) -> Recall:
        """What a step asks for the digest of the teachers' outputs about its batch."""
        speak = speech(network, teachers)

        @torch.no_grad()
        def digest(inputs: Tensor) -> Digest:
            logits = speak(inputs)
            found = softened(logits, voices, temperature)
            return found | centered(logits, voices) if self.distance == "mse" else found

        if self.afresh or (self.visits is not None and self.visits < max(task.train.sizes)):
            return lambda student, batch: digest(student.inputs)
        cached = digested(task, digest, max(1, network.at_once // len(teachers)))
        return lambda student, batch: {name: at(values, batch) for name, values in cached.items()}

    def _logits(self, network: Network, student: Student) -> Tensor:
        if self.train_head:
            return student.logits
        frozen = {name: v.detach() for name, v in student.params.items() if is_head(name)}
        return network.logits(frozen, student.features)

    def remember(self, network: Network, benchmark: Benchmark, task: Task, params: Params, memory: Memory) -> Memory:
        alone = self.newest_only and not self.keep_all
        kept = {} if alone else {k: v for k, v in memory.items() if k.startswith("teacher/")}
        others = {k: v for k, v in memory.items() if not k.startswith("teacher/")}
        return others | kept | {f"teacher/{task.index}/{name}": v for name, v in params.items()}


Speech = Callable[[Tensor], dict[int, Tensor]]
"""Inputs [M, B, D] -> teacher -> its logits [M, B, C]."""


def speech(network: Network, teachers: dict[int, Params]) -> Speech:
    """All teachers of all members in one call: they are stacked as members are."""
    names, count = next(iter(teachers.values())), len(teachers)
    stacked = {name: torch.cat([params[name] for params in teachers.values()]) for name in names}

    def speak(inputs: Tensor) -> dict[int, Tensor]:
        heard = inputs.expand(count, *inputs.shape).flatten(0, 1)
        logits = network.logits(stacked, network.features(stacked, heard))
        return dict(zip(teachers, logits.unflatten(0, (count, -1)), strict=True))

    return speak


def digested(task: Task, digest: Callable[[Tensor], Digest], size: int) -> Digest:
    """The digest of all of a task's training data, `size` samples at a time."""
    parts = [digest(task.train.take(batch.positions)[0]) for batch in task.train.in_order(size)]
    return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}


def softened(logits: dict[int, Tensor], voices: list[Voice], temperature: Tensor) -> Digest:
    """Targets [M, B, C] Σ_k w_k q_k, and entropies [M, B] Σ_k w_k H(q_k) in nats. temperature: [M, 1, 1].

    The teachers' targets are summed:
    Σ_k -Σ_c q_kc log p_kc = Σ_k logsumexp_k(z/τ) - Σ_c (Σ_k q_kc) z_c/τ: one pass however many teachers there are.
    """
    targets = torch.zeros_like(next(iter(logits.values())))
    entropies = torch.zeros_like(targets[..., 0])
    for voice in voices:
        logs = (logits[voice.teacher][..., list(voice.columns)] / temperature).log_softmax(-1)
        targets[..., list(voice.columns)] += voice.weight * logs.exp()
        entropies -= voice.weight * (logs.exp() * logs).sum(-1)
    return {"targets": targets, "entropies": entropies}


def centered(logits: dict[int, Tensor], voices: list[Voice]) -> Digest:
    """Σ_k w_k mean_c (z_c - u_kc)², merged: for each output, one square about the teachers' weighted mean (centers
    [M, B, C]), and the teachers' spread about it, which is constant (constants [M, B]).
    """
    like = next(iter(logits.values()))
    weights = speaking(voices, like.shape[-1], like.device)
    sums, squares = torch.zeros_like(like), torch.zeros_like(like)
    for voice in voices:
        columns, weight = list(voice.columns), voice.weight / len(voice.columns)
        sums[..., columns] += weight * logits[voice.teacher][..., columns]
    centers = sums / torch.where(weights > 0, weights, 1)
    for voice in voices:
        columns, weight = list(voice.columns), voice.weight / len(voice.columns)
        squares[..., columns] += weight * (logits[voice.teacher] - centers)[..., columns].square()
    return {"centers": centers, "constants": squares.sum(-1)}


def speaking(voices: list[Voice], outputs: int, device: torch.device) -> Tensor:
    """[C] Σ_k w_k / (number of outputs that voice k speaks for) over the voices that speak for an output."""
    weights = torch.zeros(outputs, device=device)
    for voice in voices:
        weights[list(voice.columns)] += voice.weight / len(voice.columns)
    return weights


def at(values: Tensor, batch: Batch) -> Tensor:
    """`values` [M, n] or [M, n, C] at a batch's positions: [M, B] or [M, B, C]."""
    if values.dim() == 2:
        return values.gather(1, batch.positions)
    return values.gather(1, batch.positions[:, :, None].expand(-1, -1, values.shape[2]))


def normalizers(voices: list[Voice], device: torch.device) -> Callable[[Tensor], Tensor]:
    """z/τ of the student [M, B, C] -> Σ_k w_k logsumexp_k(z/τ), [M, B]."""
    columns, padding, weights = column_groups(voices, device)
    ragged, weighed = bool(padding.any()), bool((weights != 1).any())  # a product that changes nothing costs, too

    def normalizer(warm: Tensor) -> Tensor:
        own = warm[..., columns] + padding if ragged else warm[..., columns]
        return own.logsumexp(-1) @ weights if weighed else own.logsumexp(-1).sum(-1)

    return normalizer


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
