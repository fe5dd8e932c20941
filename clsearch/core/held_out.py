"""Test data of a benchmark. Only `tuning.selection` may import this module; an import contract holds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from clsearch.core.benchmarks import Benchmark, Samples, task_classes
from clsearch.core.config import BenchmarkConfig
from clsearch.core.datasets import read_digits, read_torchvision

TEST: dict[str, Callable[[Path | None], tuple[Tensor, Tensor]]] = {
    "digits": lambda root: read_digits("test"),
    "mnist": lambda root: read_torchvision("MNIST", "test", root, False),
}
"""Source -> its test part: inputs [N, *shape] uint8, labels [N] int64."""


def held_out_samples(config: BenchmarkConfig, benchmark: Benchmark, seeds: Sequence[int]) -> tuple[Samples, ...]:
    """Test samples of each task of a built benchmark: every member has all of them, seen as its task shows them."""
    inputs, labels = TEST[config.source](config.data_root)
    device = benchmark.tasks[0].train.rows.device
    samples = []
    for task, classes in zip(benchmark.tasks, task_classes(config), strict=True):
        rows = torch.isin(labels, torch.tensor(classes)).nonzero().squeeze(1)
        samples.append(
            replace(
                task.train,
                inputs=inputs.flatten(1).to(device),
                labels=labels.to(device),
                rows=rows.expand(len(seeds), -1).to(device),
            )
        )
    return tuple(samples)
