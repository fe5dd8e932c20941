"""Test data, seen as each task shows it."""

import pytest
import torch

from clsearch.core.benchmarks import build_benchmark, classes_of
from clsearch.core.config import TrialConfig
from clsearch.core.datasets import read_digits
from clsearch.core.held_out import held_out_samples
from tests.helpers import CPU, write_mnist
from tests.helpers import everything as everything_of

SEEDS = (3, 4)


def tasks_and_tests(**settings):
    config = TrialConfig.of("finetuning", {"epochs": 1} | settings)
    benchmark = build_benchmark(config, SEEDS, CPU)
    return list(zip(benchmark.tasks, held_out_samples(config, benchmark), strict=True))


def everything(samples):
    (batch,) = samples.in_order(100_000)
    assert batch.valid is None
    return samples.take(batch.positions)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("benchmark", ["split-mnist", "permuted-mnist"])
def test_mnist_test_samples_are_the_t10k_files_mapped_as_the_task_maps(tmp_path, benchmark, scenario):
    write_mnist(tmp_path, "train", per_class=10, seed=0)
    images, labels = write_mnist(tmp_path, "t10k", per_class=3, seed=1)
    pairs = tasks_and_tests(benchmark=benchmark, scenario=scenario, tasks=2, data_root=tmp_path)
    for index, (task, samples) in enumerate(pairs):
        split = benchmark == "split-mnist"
        members = range(5 * index, 5 * index + 5) if split else range(10)
        # Added to a class of the source: minus the task's first class, nothing, or a block per task.
        offset = -members[0] if scenario == "domain" else 0 if split else 10 * index
        own = torch.isin(labels, torch.tensor(members))
        inputs, outputs = everything(samples)
        for m in range(len(SEEDS)):
            assert torch.equal(outputs[m], labels[own] + offset)
            pixels = images[own].flatten(1) if split else images[own].flatten(1)[:, task.train.pixels[m]]
            assert torch.equal(inputs[m], pixels / 255)
        assert set(outputs.unique().tolist()) == set(task.classes)


def test_the_pixel_permutation_of_a_later_task_is_not_the_first_tasks():
    (_, first), (_, second) = tasks_and_tests(benchmark="permuted-digits", tasks=2)
    a, b = everything(first)[0], everything(second)[0]
    assert not torch.equal(a, b)
    assert torch.equal(a.sort(-1).values, b.sort(-1).values)


def test_all_digits_held_out_come_up_once_for_every_member():
    inputs, labels = read_digits("test")
    found = torch.cat([everything(samples)[0] for _, samples in tasks_and_tests()], 1)
    for m in range(len(SEEDS)):
        assert sorted(map(tuple, found[m].tolist())) == sorted(map(tuple, (inputs.flatten(1) / 16).tolist()))
    assert found.shape[1] == len(labels)


@pytest.mark.parametrize(
    "settings",
    [
        {"scenario": "task", "classes_per_task": (2, 3, 4)},
        {"scenario": "class", "classes_per_task": (2, 3, 5)},
        {"scenario": "domain"},
    ],
)
def test_each_member_is_tested_on_its_own_classes_where_their_order_is_shuffled(settings):
    images, labels = read_digits("test")
    settings = {"class_order": "shuffled", **settings}
    config = TrialConfig.of("finetuning", {"epochs": 1} | settings)
    sizes = []
    for task, samples in tasks_and_tests(**settings):
        for m, seed in enumerate(SEEDS):
            own = classes_of(config, task.index, seed)
            rows = [row for row, label in enumerate(labels.tolist()) if label in own]
            inputs, outputs = everything_of(samples, m)
            assert torch.equal(inputs, images[rows].flatten(1) / 16)
            assert outputs.tolist() == [task.classes[own.index(label)] for label in labels[rows].tolist()]
            assert samples.sizes[m] == len(rows)
        sizes.append(samples.sizes)
    assert len({size for pair in sizes for size in pair}) > 2  # members and tasks differ in size


def test_no_test_sample_is_training_or_validation_data():
    images, _ = read_digits("test")
    held = {tuple(image) for image in images.flatten(1).tolist()}
    config = TrialConfig.of("finetuning", {"epochs": 1, "class_order": "shuffled"})
    used = {
        tuple((16 * x).int().tolist())
        for task in build_benchmark(config, SEEDS, CPU).tasks
        for part in (task.train, task.validation)
        for x in everything_of(part, 0)[0]
    }
    assert len(used) > 1400
    assert len(held & used) == 0
