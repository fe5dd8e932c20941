"""Benchmarks: a source cut into a sequence of tasks, each with training and validation data and no test data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from clsearch.common.seeding import generator_of
from clsearch.config.data_source import class_counts
from clsearch.config.sections import BenchmarkConfig, Kind, Scenario
from clsearch.data.datasets import Data, training_data
from clsearch.tasks.samples import Samples, stacked_rows
from clsearch.tasks.transforms import PixelOrder, Rotation, View

HALF_TURN = 180.0
"""Rotated tasks turn by up to this many degrees (Lopez-Paz & Ranzato 2017)."""


@dataclass(frozen=True)
class Task:
    """One task. index: its place in the benchmark's sequence, from 1. origin: its number among the configuration's
    tasks, which its random numbers follow: the same as index where all of them are learned.
    classes: its outputs of the head, the same for all members, whatever source classes stand behind them.
    """

    index: int
    origin: int
    classes: tuple[int, ...]
    train: Samples
    validation: Samples


@dataclass(frozen=True)
class Benchmark:
    """A sequence of tasks, for one member per seed, and the rule of what may be answered.

    outputs: width C of the head. shape: of an input before it is flattened, [channels, height, width].
    unlearned: indices of tasks that count as never seen, as they do in a sequence without them.
    """

    scenario: Scenario
    seeds: tuple[int, ...]
    tasks: tuple[Task, ...]
    outputs: int
    shape: tuple[int, int, int]
    unlearned: frozenset[int] = frozenset()

    @property
    def inputs(self) -> int:
        """Width D of a flattened input."""
        return math.prod(self.shape)

    def retained(self, i: int) -> tuple[int, ...]:
        """Indices of the tasks learned through task i that were not unlearned."""
        return tuple(k for k in range(1, i + 1) if k not in self.unlearned)

    def seen(self, i: int) -> tuple[int, ...]:
        """Outputs of the classes seen through task i."""
        return tuple(sorted({c for k in self.retained(i) for c in self.tasks[k - 1].classes}))

    def answers(self, i: int, k: int) -> tuple[int, ...]:
        """ans(i, k): outputs that may be answered for task k after learning task i (van de Ven et al. 2022)."""
        match self.scenario:
            case Scenario.TASK:
                return self.tasks[k - 1].classes
            case Scenario.DOMAIN:
                return tuple(range(self.outputs))
            case Scenario.CLASS:  # an unlearned task is measured as if it had been seen
                own = self.tasks[k - 1].classes if k in self.unlearned else ()
                return tuple(sorted({*self.seen(i), *own}))

    def first(self, members: int) -> Benchmark:
        """The same for the first members alone."""
        tasks = [
            replace(task, train=task.train.first(members), validation=task.validation.first(members))
            for task in self.tasks
        ]
        return replace(self, seeds=self.seeds[:members], tasks=tuple(tasks))

    def is_defined(self, i: int, k: int) -> bool:
        """Whether accuracy on task k after learning task i has a meaning (class-incremental: only for k <= i)."""
        return self.scenario is not Scenario.CLASS or k <= i


def build_benchmark(
    config: BenchmarkConfig,
    seeds: Sequence[int],
    device: torch.device,
    data: Data | None = None,
    sequence: Sequence[int] | None = None,
) -> Benchmark:
    """The tasks of a configuration for M members, one per seed, of which several may have the same. data: the source's,
    unless it is to be read here (once per process).

    sequence: numbers of the tasks that are learned, rising; None for all. The others are not built, so nothing can read
    them. Those that are, and the width of the head, are what they are among all: learning tasks 1..k alone is learning
    the first k of all. Raises ValueError for a task that is not there.
    """
    sequence = tuple(range(1, config.tasks + 1) if sequence is None else sequence)
    if not sequence or list(sequence) != sorted({*sequence} & {*range(1, config.tasks + 1)}):
        raise ValueError(f"sequence: must rise, within 1 to {config.tasks}; got {' '.join(map(str, sequence))}")
    data = data or training_data(config.source, config.data_root)
    inputs, labels = tensor_of(data.inputs).to(device), tensor_of(data.labels).to(device)
    cut = {seed: cut_by_class(data.labels, config.source.validation_fraction, seed) for seed in {*seeds}}
    cuts = [cut[seed] for seed in seeds]
    tasks = []
    for index, origin in enumerate(sequence, start=1):
        members = [classes_of(config, origin, seed) for seed in seeds]
        view = view_of(config, origin, seeds, device)
        train, validation = (
            samples_of(
                config,
                (inputs, labels),
                [np.concatenate([cut[part][c] for c in own]) for cut, own in zip(cuts, members, strict=True)],
                output_map(config, origin, members).to(device),
                view,
            )
            for part in ("train", "validation")
        )
        tasks.append(Task(index, origin, tuple(outputs_of(config, origin)), train, validation))
    width = max(outputs_of(config, origin).stop for origin in range(1, config.tasks + 1))
    return Benchmark(config.scenario, tuple(seeds), tuple(tasks), width, config.source.shape)


def tensor_of(array: np.ndarray) -> Tensor:
    """A tensor on an array's own memory, which nobody writes to; torch would warn where it cannot be written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def samples_of(
    config: BenchmarkConfig,
    data: tuple[Tensor, Tensor],
    rows: Sequence[np.ndarray],
    outputs: Tensor,
    view: View | None,
) -> Samples:
    """Samples of members whose rows of the data (flat inputs, labels) are given."""
    own = [torch.from_numpy(member).to(data[0].device) for member in rows]
    return Samples(*data, float(config.source.maximum), stacked_rows(own), tuple(map(len, own)), outputs, view)


def outputs_of(config: BenchmarkConfig, index: int) -> range:
    """Outputs of the head that a task's classes have, the same for all seeds. Domain-incremental: every task shares
    them. Otherwise each task has a block of its own.
    """
    counts = class_counts(config)
    first = 0 if config.scenario is Scenario.DOMAIN else sum(counts[: index - 1])
    return range(first, first + counts[index - 1])


def classes_of(config: BenchmarkConfig, index: int, seed: int) -> list[int]:
    """Source classes of a task, in the order of their outputs."""
    classes, groups = len(config.source.classes), config.source.groups
    if config.kind is not Kind.SPLIT:
        return list(range(classes))
    if groups is not None:
        return list(groups[index - 1])
    shuffled = config.class_order == "shuffled"
    order = torch.randperm(classes, generator=generator_of(seed, 0, 0, "classes")) if shuffled else range(classes)
    counts = class_counts(config)
    first = sum(counts[: index - 1])
    return [int(c) for c in order[first : first + counts[index - 1]]]


def output_map(config: BenchmarkConfig, index: int, members: Sequence[Sequence[int]]) -> Tensor:
    """[M, S] source class -> output of the head, -1 where the class is not in the task. members: their classes."""
    outputs = torch.full((len(members), len(config.source.classes)), -1)
    for row, classes in zip(outputs, members, strict=True):
        row[list(classes)] = torch.tensor(outputs_of(config, index))
    return outputs


def miniature(benchmark: Benchmark, tasks: int, most: int) -> Benchmark:
    """The first tasks with about `most` samples each: enough to see whether something acts."""
    first = [
        replace(task, train=task.train.thinned(most), validation=task.validation.thinned(most))
        for task in benchmark.tasks[:tasks]
    ]
    return replace(benchmark, tasks=tuple(first))


def view_of(config: BenchmarkConfig, index: int, seeds: Sequence[int], device: torch.device) -> View | None:
    """How a task shows its inputs to each seed's member; None: as they are, as the first task does."""
    if index == 1 or config.kind is Kind.SPLIT:
        return None
    if config.kind is Kind.PERMUTED:
        return PixelOrder(pixel_orders(index, seeds, math.prod(config.source.shape)).to(device))
    return Rotation.of(angles(index, config.tasks, seeds), *config.source.shape[1:]).to(device)


def pixel_orders(index: int, seeds: Sequence[int], width: int) -> Tensor:
    """[M, D] a permutation of the pixels per seed (Kirkpatrick et al. 2017)."""
    return torch.stack([torch.randperm(width, generator=generator_of(s, index, 0, "pixels")) for s in seeds])


def angles(index: int, tasks: int, seeds: Sequence[int]) -> Tensor:
    """[M] degrees by which a task turns its images: for task t of T, an angle per seed from the t-th of T equal parts
    of the half turn (Lopez-Paz & Ranzato 2017).
    """
    parts = [index - 1 + torch.rand((), generator=generator_of(seed, index, 0, "angle")) for seed in seeds]
    return torch.stack(parts) * HALF_TURN / tasks


def cut_by_class(labels: np.ndarray, fraction: float, seed: int) -> dict[str, list[np.ndarray]]:
    """Rows of each class for training and validation: stratified, equal in size over seeds, chosen by the seed."""
    shuffled = torch.randperm(len(labels), generator=generator_of(seed, 0, 0, "validation")).numpy()
    by_class = [shuffled[labels[shuffled] == c] for c in range(int(labels.max()) + 1)]
    held = [max(1, round(fraction * len(rows))) for rows in by_class]
    return {
        "validation": [rows[:n] for rows, n in zip(by_class, held, strict=True)],
        "train": [rows[n:] for rows, n in zip(by_class, held, strict=True)],
    }
