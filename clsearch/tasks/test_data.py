"""Test data of a benchmark. Only the final evaluation imports this module (an import contract)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from clsearch.common.errors import ConfigError, Refusal
from clsearch.config.sections import BenchmarkConfig
from clsearch.data.datasets import Data, Digits, ImageFolder, Reader, Torchvision
from clsearch.tasks.benchmark import Benchmark, build_samples, classes_of, to_tensor
from clsearch.tasks.samples import Samples


def sealed_reader(config: BenchmarkConfig) -> Reader:
    """Return the reader of the test part of a configuration's source."""
    match config.source.read:
        case Digits() | Torchvision() as train:
            return replace(train, part="test")
        case ImageFolder() as train:
            return replace(train, part="test", key=None)
        case other:
            raise TypeError(f"test data must be read by one of the known readers; got {other!r}")


def read_test(config: BenchmarkConfig) -> Data:
    """Read the test part of a configuration's source.

    Raises:
        OSError, RuntimeError, ValueError: If it cannot be read.
        ConfigError: If a folder of images cannot be used.
    """
    source, shape = config.source, config.source.shape
    if isinstance(source.read, ImageFolder):  # the split of test data depends on the files
        source.read.check_unchanged()
    inputs, labels = sealed_reader(config)(config.data_root, False, None)
    if inputs.shape[1:] != shape:
        shapes = [" x ".join(map(str, sizes)) for sizes in (shape, inputs.shape[1:])]
        text = f"benchmark: test images must have the shape of training images, {shapes[0]}; got {shapes[1]}"
        raise ConfigError([Refusal("test-shape", text)])
    if len(inputs) != len(labels):
        raise ValueError(f"{len(inputs):,} test images and {len(labels):,} labels")
    return Data(source, inputs.reshape(len(inputs), math.prod(shape)), labels)


def check_test(config: BenchmarkConfig) -> bool:
    """Return True if the test part of a configuration's source decodes and fits its classes; hand nothing else out.

    A study checks this before its search, so that a broken file is not found after it. The images of a folder are
    decoded once, into the cache, under a key of their names, sizes and times.

    Raises:
        OSError, RuntimeError, ValueError, ConfigError: As `read_test`, and if a class has no
            image, or a label is no class.
    """
    test = read_test(config)
    classes = len(config.source.classes)
    if len(test.labels) and not 0 <= int(test.labels.min()) <= int(test.labels.max()) < classes:
        raise ValueError(f"test labels must be the classes 0 to {classes - 1}")
    wanted = {c for index in range(1, config.tasks + 1) for c in classes_of(config, index, 0)}
    shuffled = config.class_order == "shuffled"  # then every class can be in some task
    missing = (set(range(classes)) if shuffled else wanted) - {*np.unique(test.labels).tolist()}
    if missing:
        names = ", ".join(config.source.classes[c] for c in sorted(missing)[:10])
        raise ValueError(f"test data must have images of every class; none of {names}")
    return True


def sealed_samples(config: BenchmarkConfig, benchmark: Benchmark, test: Data) -> tuple[Samples, ...]:
    """Return the test samples of each task of a benchmark, shown to each member as by its tasks.

    Args:
        config: The configuration that the benchmark was built from.
        benchmark: The tasks and the seeds.
        test: The test part of its source.
    """
    device = benchmark.tasks[0].validation.rows.device
    data = to_tensor(test.inputs).to(device), to_tensor(test.labels).to(device)
    return tuple(
        build_samples(
            config,
            data,
            [np.flatnonzero(np.isin(test.labels, classes_of(config, task.origin, seed))) for seed in benchmark.seeds],
            task.validation.outputs,
            task.validation.view,
        )
        for task in benchmark.tasks
    )
