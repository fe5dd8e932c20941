"""Test data of a benchmark. Only `tuning.selection` may import this module; an import contract holds it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clsearch.core.benchmarks import Benchmark, classes_of, samples_of, tensor_of
from clsearch.core.datasets import Digits, ImageFolder, Reader, Torchvision
from clsearch.core.errors import ConfigError
from clsearch.core.parts import BenchmarkConfig
from clsearch.core.samples import Samples


def reader_of_test(config: BenchmarkConfig) -> Reader:
    """What reads the test part of a configuration's source."""
    match config.source.read:
        case Digits() | Torchvision() as train:
            return replace(train, part="test")
        case ImageFolder() as train:
            return replace(train, part="test", key=None)
        case other:
            raise TypeError(f"test data must be read by one of the known readers; got {other!r}")


def held_out_samples(config: BenchmarkConfig, benchmark: Benchmark) -> tuple[Samples, ...]:
    """Test samples of each task of a built benchmark, seen by each member as its tasks show them.

    Raises OSError, RuntimeError, or ConfigError for a folder of images, where they cannot be read.
    """
    device = benchmark.tasks[0].validation.rows.device
    inputs, labels = reader_of_test(config)(config.data_root, False, None)
    if inputs.shape[1:] != benchmark.shape:
        shapes = [" x ".join(map(str, shape)) for shape in (benchmark.shape, inputs.shape[1:])]
        raise ConfigError(
            [f"benchmark: test images must have the shape of training images, {shapes[0]}; got {shapes[1]}"]
        )
    data = tensor_of(inputs.reshape(len(inputs), benchmark.inputs)).to(device), tensor_of(labels).to(device)
    return tuple(
        samples_of(
            config,
            data,
            [np.flatnonzero(np.isin(labels, classes_of(config, task.index, seed))) for seed in benchmark.seeds],
            task.validation.outputs,
            task.validation.view,
        )
        for task in benchmark.tasks
    )
