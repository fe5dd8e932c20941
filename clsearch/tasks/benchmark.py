"""Benchmarks: a source split into a sequence of tasks, each with training and validation data but no test data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from clsearch.common.seeding import derive_generator
from clsearch.config.data_source import class_counts
from clsearch.config.sections import BenchmarkConfig, Scenario, TaskConstruction
from clsearch.data.datasets import Data, training_data
from clsearch.tasks.samples import Samples, stack_rows
from clsearch.tasks.transforms import PixelOrder, Rotation, View

HALF_TURN = 180.0
"""Largest angle of rotated tasks, in degrees (Lopez-Paz & Ranzato 2017)."""


@dataclass(frozen=True)
class Task:
    """One task of a benchmark.

    Args:
        index: Position in the benchmark's sequence, from 1.
        origin: Number among the configuration's tasks, from 1. Random numbers derive from it. Equal to `index` if all
            tasks are learned.
        classes: Outputs of the head of this task, the same for all members; their source classes may differ.
        train: Training samples.
        validation: Validation samples.
    """

    index: int
    origin: int
    classes: tuple[int, ...]
    train: Samples
    validation: Samples


@dataclass(frozen=True)
class Benchmark:
    """A sequence of tasks, for one member per seed, and the outputs that are active in each task.

    Args:
        scenario: Task-, domain- or class-incremental.
        seeds: One per member.
        tasks: In the order in which they are learned.
        outputs: Number of outputs of the head, C.
        shape: Shape of an input before it is flattened, [channels, height, width].
        unlearned: Indices of the tasks that count as never seen.
    """

    scenario: Scenario
    seeds: tuple[int, ...]
    tasks: tuple[Task, ...]
    outputs: int
    shape: tuple[int, int, int]
    unlearned: frozenset[int] = frozenset()

    @property
    def inputs(self) -> int:
        """Elements of a flattened input, D."""
        return math.prod(self.shape)

    def retained(self, i: int) -> tuple[int, ...]:
        """Return the indices of the tasks learned through task i and not unlearned."""
        return tuple(k for k in range(1, i + 1) if k not in self.unlearned)

    def seen(self, i: int) -> tuple[int, ...]:
        """Return the outputs of the classes seen through task i."""
        return tuple(sorted({c for k in self.retained(i) for c in self.tasks[k - 1].classes}))

    def active_outputs(self, i: int, k: int) -> tuple[int, ...]:
        """Return ans(i, k): the outputs that are active for task k after learning task i (van de Ven et al. 2022).

        Task-incremental: the classes of task k. Domain-incremental: all. Class-incremental: the classes seen through
        task i.

        Args:
            i: Number of tasks learned.
            k: Index of the task that is evaluated.
        """
        match self.scenario:
            case Scenario.TASK:
                return self.tasks[k - 1].classes
            case Scenario.DOMAIN:
                return tuple(range(self.outputs))
            case Scenario.CLASS:  # an unlearned task is evaluated as if it were still seen
                unlearned = self.tasks[k - 1].classes if k in self.unlearned else ()
                return tuple(sorted({*self.seen(i), *unlearned}))

    def first(self, members: int) -> Benchmark:
        """Return the benchmark of the first members alone."""
        tasks = [
            replace(task, train=task.train.first(members), validation=task.validation.first(members))
            for task in self.tasks
        ]
        return replace(self, seeds=self.seeds[:members], tasks=tuple(tasks))

    def is_defined(self, i: int, k: int) -> bool:
        """Return True if accuracy on task k after learning task i has a meaning.

        Class-incremental accuracy has one only for k <= i.
        """
        return self.scenario is not Scenario.CLASS or k <= i


def build_benchmark(
    config: BenchmarkConfig,
    seeds: Sequence[int],
    device: torch.device,
    data: Data | None = None,
    sequence: Sequence[int] | None = None,
) -> Benchmark:
    """Build the tasks of a configuration for M members.

    Args:
        config: The benchmark's settings.
        seeds: One per member; several members can have the same seed.
        device: Device of the samples.
        data: Training data of the source; None reads it (once per process).
        sequence: Numbers of the tasks to learn, increasing; None for all. The others are not built, so nothing can read
            them. The built tasks and the width of the head are the same as among all tasks: learning tasks 1..k alone
            equals learning the first k of all.

    Raises:
        ValueError: For a task that does not exist.
    """
    sequence = tuple(range(1, config.tasks + 1) if sequence is None else sequence)
    if not sequence or list(sequence) != sorted({*sequence} & {*range(1, config.tasks + 1)}):
        raise ValueError(f"sequence: must increase, within 1 to {config.tasks}; got {' '.join(map(str, sequence))}")
    data = data or training_data(config.source, config.data_root)
    inputs, labels = to_tensor(data.inputs).to(device), to_tensor(data.labels).to(device)
    cut = {seed: cut_by_class(data.labels, config.source.validation_fraction, seed) for seed in {*seeds}}
    cuts = [cut[seed] for seed in seeds]
    tasks = []
    for index, origin in enumerate(sequence, start=1):
        members = [classes_of(config, origin, seed) for seed in seeds]
        view = build_view(config, origin, seeds, device)
        train, validation = (
            build_samples(
                config,
                (inputs, labels),
                [np.concatenate([cut[part][c] for c in classes]) for cut, classes in zip(cuts, members, strict=True)],
                output_map(config, origin, members).to(device),
                view,
            )
            for part in ("train", "validation")
        )
        tasks.append(Task(index, origin, tuple(outputs_of_task(config, origin)), train, validation))
    width = max(outputs_of_task(config, origin).stop for origin in range(1, config.tasks + 1))
    return Benchmark(config.scenario, tuple(seeds), tuple(tasks), width, config.source.shape)


def to_tensor(array: np.ndarray) -> Tensor:
    """Return a tensor on an array's own memory, without torch's warning for read-only ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def build_samples(
    config: BenchmarkConfig,
    data: tuple[Tensor, Tensor],
    rows: Sequence[np.ndarray],
    outputs: Tensor,
    view: View | None,
) -> Samples:
    """Build the samples of M members.

    Args:
        config: The benchmark's settings.
        data: Inputs [N, D] and labels [N] of the source.
        rows: The rows of the source of each member.
        outputs: [M, S] source class -> output of the head.
        view: Transform of the task's inputs, or None.
    """
    tensors = [torch.from_numpy(member).to(data[0].device) for member in rows]
    sizes = tuple(map(len, tensors))
    return Samples(*data, float(config.source.maximum), stack_rows(tensors), sizes, outputs, view)


def outputs_of_task(config: BenchmarkConfig, index: int) -> range:
    """Return the outputs of the head of a task's classes, the same for all seeds.

    Domain-incremental tasks share their outputs; otherwise each task has a block of its own.
    """
    counts = class_counts(config)
    first = 0 if config.scenario is Scenario.DOMAIN else sum(counts[: index - 1])
    return range(first, first + counts[index - 1])


def classes_of(config: BenchmarkConfig, index: int, seed: int) -> list[int]:
    """Return the source classes of a task, in the order of their outputs."""
    classes, groups = len(config.source.classes), config.source.groups
    if config.kind is not TaskConstruction.SPLIT:
        return list(range(classes))
    if groups is not None:
        return list(groups[index - 1])
    shuffled = config.class_order == "shuffled"
    order = torch.randperm(classes, generator=derive_generator(seed, 0, 0, "classes")) if shuffled else range(classes)
    counts = class_counts(config)
    first = sum(counts[: index - 1])
    return [int(c) for c in order[first : first + counts[index - 1]]]


def output_map(config: BenchmarkConfig, index: int, members: Sequence[Sequence[int]]) -> Tensor:
    """Return the map [M, S] from source classes to outputs of the head; -1 for a class of another task.

    Args:
        config: The benchmark's settings.
        index: Number of the task.
        members: Source classes of each member.
    """
    outputs = torch.full((len(members), len(config.source.classes)), -1)
    for row, classes in zip(outputs, members, strict=True):
        row[list(classes)] = torch.tensor(outputs_of_task(config, index))
    return outputs


def shrink(benchmark: Benchmark, tasks: int, most: int) -> Benchmark:
    """Return the first tasks with at most about `most` samples each, for quick checks.

    Args:
        benchmark: The full benchmark.
        tasks: Number of tasks to keep.
        most: Samples of each task and member.
    """
    first = [
        replace(task, train=task.train.thinned(most), validation=task.validation.thinned(most))
        for task in benchmark.tasks[:tasks]
    ]
    return replace(benchmark, tasks=tuple(first))


def build_view(config: BenchmarkConfig, index: int, seeds: Sequence[int], device: torch.device) -> View | None:
    """Return a task's transform, each member's own; None if it shows the inputs unchanged."""
    if index == 1 or config.kind is TaskConstruction.SPLIT:
        return None
    if config.kind is TaskConstruction.PERMUTED:
        return PixelOrder(draw_pixel_orders(index, seeds, math.prod(config.source.shape)).to(device))
    return Rotation.of(draw_angles(index, config.tasks, seeds), *config.source.shape[1:]).to(device)


def draw_pixel_orders(index: int, seeds: Sequence[int], width: int) -> Tensor:
    """Draw a permutation of the pixels per seed, [M, D] (Kirkpatrick et al. 2017)."""
    return torch.stack([torch.randperm(width, generator=derive_generator(s, index, 0, "pixels")) for s in seeds])


def draw_angles(index: int, tasks: int, seeds: Sequence[int]) -> Tensor:
    """Draw the angle by which a task rotates its images, [M] in degrees.

    Divides the half turn into T equal parts; task t of T draws an angle per seed from the t-th (Lopez-Paz & Ranzato
    2017).
    """
    parts = [index - 1 + torch.rand((), generator=derive_generator(seed, index, 0, "angle")) for seed in seeds]
    return torch.stack(parts) * HALF_TURN / tasks


def cut_by_class(labels: np.ndarray, fraction: float, seed: int) -> dict[str, list[np.ndarray]]:
    """Split the rows of each class into training and validation: stratified, equal in size for all seeds.

    Args:
        labels: [N] source classes.
        fraction: Share of each class for validation; at least one row.
        seed: Selects the validation rows.

    Returns:
        "train" and "validation" -> rows of each class.
    """
    shuffled = torch.randperm(len(labels), generator=derive_generator(seed, 0, 0, "validation")).numpy()
    by_class = [shuffled[labels[shuffled] == c] for c in range(int(labels.max()) + 1)]
    held = [max(1, round(fraction * len(rows))) for rows in by_class]
    return {
        "validation": [rows[:n] for rows, n in zip(by_class, held, strict=True)],
        "train": [rows[n:] for rows, n in zip(by_class, held, strict=True)],
    }
