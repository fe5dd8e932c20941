"""Test data of a benchmark. Only `tuning.selection` may import this module; an import contract holds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from clsearch.core.benchmarks import Benchmark, classes_of, samples_of
from clsearch.core.datasets import read_digits, read_torchvision
from clsearch.core.parts import BenchmarkConfig
from clsearch.core.samples import Samples

TEST: dict[str, Callable[[Path | None], tuple[Tensor, Tensor]]] = {
    "digits": lambda root: read_digits("test"),
    "mnist": lambda root: read_torchvision("MNIST", "test", root, False),
}
"""Source -> its test part: inputs [N, *shape] uint8, labels [N] int64."""


def held_out_samples(config: BenchmarkConfig, benchmark: Benchmark) -> tuple[Samples, ...]:
    """Test samples of each task of a built benchmark, seen by each member as its tasks show them."""
    device = benchmark.tasks[0].validation.rows.device
    inputs, labels = (tensor.to(device) for tensor in TEST[config.source](config.data_root))
    numbers = labels.cpu().numpy()
    return tuple(
        samples_of(
            config,
            (inputs.flatten(1), labels),
            [np.flatnonzero(np.isin(numbers, classes_of(config, task.index, seed))) for seed in benchmark.seeds],
            task.validation.outputs,
            task.validation.pixels,
        )
        for task in benchmark.tasks
    )
