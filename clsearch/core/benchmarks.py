"""Benchmarks: a source cut into a sequence of tasks, each with training and validation data and no test data.

M members (one per seed) share the source's tensors; what differs between them is indices. So memory grows with the
data once, not with seeds or tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clsearch.core.config import BenchmarkConfig, Kind, Scenario
from clsearch.core.datasets import SOURCES, training_data
from clsearch.core.seeding import generator_of


@dataclass(frozen=True)
class Samples:
    """n samples for each of M members: rows of a source that all members share.

    inputs: [N, D] uint8, the source. labels: [N] the source's classes, 0..S-1.
    scale: what a stored value is divided by.
    rows: [M, n] which rows of the source each member has.
    outputs: [M, S] source class -> output of the head that stands for it (-1: not in this task).
    pixels: [M, D] order in which a permuted task reads the inputs, or None.
    """

    inputs: Tensor
    labels: Tensor
    scale: float
    rows: Tensor
    outputs: Tensor
    pixels: Tensor | None = None

    def __len__(self) -> int:
        return self.rows.shape[1]

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The samples at `positions` [M, B] of each member: inputs [M, B, D] float in [0, 1], labels [M, B]."""
        rows = self.rows.gather(1, positions)
        inputs = self.inputs[rows].float() / self.scale
        if self.pixels is not None:
            inputs = inputs.gather(2, self.pixels[:, None, :].expand_as(inputs))
        return inputs, self.outputs.gather(1, self.labels[rows])

    def chunks(self, size: int = 1024) -> list[Tensor]:
        """Positions [M, <= size] that go through all samples in order, for passes that do not train."""
        order = torch.arange(len(self), device=self.rows.device).expand(len(self.rows), -1)
        return list(order.split(size, dim=1))


@dataclass(frozen=True)
class Task:
    """One task. index: from 1. classes: its outputs of the head."""

    index: int
    classes: tuple[int, ...]
    train: Samples
    validation: Samples


@dataclass(frozen=True)
class Benchmark:
    """A sequence of tasks and the rule of what may be answered.

    outputs: width C of the head. inputs: width D of a flattened input.
    """

    scenario: Scenario
    tasks: tuple[Task, ...]
    outputs: int
    inputs: int

    def seen(self, i: int) -> tuple[int, ...]:
        """Outputs of the classes seen through task i."""
        return tuple(sorted({c for task in self.tasks[:i] for c in task.classes}))

    def answers(self, i: int, k: int) -> tuple[int, ...]:
        """ans(i, k): outputs that may be answered for task k after learning task i (van de Ven et al. 2022)."""
        match self.scenario:
            case Scenario.TASK:
                return self.tasks[k - 1].classes
            case Scenario.DOMAIN:
                return tuple(range(self.outputs))
            case Scenario.CLASS:
                return self.seen(i)

    def is_defined(self, i: int, k: int) -> bool:
        """Whether accuracy on task k after learning task i has a meaning (class-incremental: only for k <= i)."""
        return self.scenario is not Scenario.CLASS or k <= i


def build_benchmark(config: BenchmarkConfig, seeds: Sequence[int], device: torch.device) -> Benchmark:
    """The tasks of a configuration for M members, one per seed; the source is read once per process."""
    source = SOURCES[config.source]
    inputs, labels = (tensor.to(device) for tensor in training_data(config.source, config.data_root))
    numbers = labels.cpu().numpy()
    cuts = [cut_by_class(numbers, source.validation_fraction, seed) for seed in seeds]
    tasks = []
    for index, members in enumerate(task_classes(config), start=1):
        outputs = outputs_of(config, index, members)
        pixels = pixel_orders(config, index, seeds, inputs.shape[1])
        train, validation = (
            Samples(
                inputs,
                labels,
                float(source.maximum),
                _stack([np.concatenate([cut[part][c] for c in members]) for cut in cuts], device),
                torch.tensor([outputs] * len(seeds), device=device),
                None if pixels is None else pixels.to(device),
            )
            for part in ("train", "validation")
        )
        tasks.append(Task(index, tuple(outputs[c] for c in members), train, validation))
    width = max(c for task in tasks for c in task.classes) + 1
    return Benchmark(config.scenario, tuple(tasks), width, inputs.shape[1])


def task_classes(config: BenchmarkConfig) -> list[list[int]]:
    """Source classes of each task, in order."""
    classes = np.arange(SOURCES[config.source].classes)
    if config.kind is Kind.PERMUTED:
        return [classes.tolist()] * config.tasks
    return [part.tolist() for part in np.array_split(classes, config.tasks)]


def outputs_of(config: BenchmarkConfig, index: int, members: list[int]) -> list[int]:
    """Source class -> output of the head, -1 where the class is not in the task.

    Domain-incremental: the class's position within its task. Otherwise a global id: the class itself for split
    benchmarks, a block of classes per task for permuted ones.
    """
    offset = 0
    if config.scenario is Scenario.DOMAIN:
        offset = -members[0]
    elif config.kind is Kind.PERMUTED:
        offset = (index - 1) * len(members)
    outputs = [-1] * SOURCES[config.source].classes
    for c in members:
        outputs[c] = c + offset
    return outputs


def pixel_orders(config: BenchmarkConfig, index: int, seeds: Sequence[int], width: int) -> Tensor | None:
    """[M, D] a permutation of the pixels per seed; the first task reads them as they are (Kirkpatrick 2017)."""
    if config.kind is not Kind.PERMUTED:
        return None
    if index == 1:
        return torch.arange(width).expand(len(seeds), -1)
    return torch.stack([torch.randperm(width, generator=generator_of(s, index, 0, "pixels")) for s in seeds])


def cut_by_class(labels: np.ndarray, fraction: float, seed: int) -> dict[str, list[np.ndarray]]:
    """Rows of each class for training and validation: stratified, equal in size over seeds, chosen by the seed."""
    shuffled = torch.randperm(len(labels), generator=generator_of(seed, 0, 0, "validation")).numpy()
    by_class = [shuffled[labels[shuffled] == c] for c in range(int(labels.max()) + 1)]
    held = [max(1, round(fraction * len(rows))) for rows in by_class]
    return {
        "validation": [rows[:n] for rows, n in zip(by_class, held, strict=True)],
        "train": [rows[n:] for rows, n in zip(by_class, held, strict=True)],
    }


def _stack(rows: list[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(rows)).to(device)
