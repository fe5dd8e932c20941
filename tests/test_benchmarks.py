"""Tasks, their labels and answers, and what is held back for validation."""

import pytest
import torch

from clsearch.core.benchmarks import Samples, build_benchmark, cut_by_class, pixel_orders
from clsearch.core.config import TrialConfig
from clsearch.core.datasets import training_data
from tests.helpers import CPU, write_mnist

SEEDS = (0, 1, 7)
SCENARIOS = ("task", "domain", "class")


def benchmark_of(seeds=SEEDS, **settings):
    return build_benchmark(TrialConfig.of("finetuning", {"epochs": 1} | settings), seeds, CPU)


def source_labels(samples: Samples, m: int):
    return samples.labels[samples.rows[m]]


@pytest.mark.parametrize("benchmark", ["split-digits", "permuted-digits"])
def test_validation_and_training_data_are_disjoint_and_together_the_source(benchmark):
    labels = training_data("digits", None)[1]
    for m in range(len(SEEDS)):
        for task in benchmark_of(benchmark=benchmark, tasks=5).tasks:
            train, validation = set(task.train.rows[m].tolist()), set(task.validation.rows[m].tolist())
            assert not train & validation
            members = source_labels(task.train, m).unique()
            assert train | validation == set(torch.isin(labels, members).nonzero().squeeze(1).tolist())


def test_a_quarter_of_each_digit_is_validation_data():
    total = training_data("digits", None)[1].bincount(minlength=10)
    for task in benchmark_of().tasks:
        for m in range(len(SEEDS)):
            held = source_labels(task.validation, m).bincount(minlength=10)
            members = held > 0
            assert members.sum() == 2
            assert ((held - 0.25 * total)[members].abs() <= 0.5).all()


def test_a_tenth_of_each_mnist_class_is_validation_data(tmp_path):
    write_mnist(tmp_path, "train", per_class=30, seed=4)
    for task in benchmark_of(benchmark="split-mnist", data_root=tmp_path).tasks:
        for m in range(len(SEEDS)):
            held = source_labels(task.validation, m).bincount(minlength=10)
            assert held[held > 0].tolist() == [3, 3]
            assert len(task.train) == 54


def test_every_class_has_validation_data_however_few_it_has():
    cut = cut_by_class(torch.tensor([0, 0, 0, 1, 1, 1, 1]).numpy(), 0.1, seed=0)
    assert [len(rows) for rows in cut["validation"]] == [1, 1]
    assert [len(rows) for rows in cut["train"]] == [2, 3]


def test_the_choice_of_validation_data_depends_on_the_seed_alone():
    first = benchmark_of((0, 1)).tasks[0].validation.rows
    assert set(first[0].tolist()) != set(first[1].tolist())
    assert torch.equal(benchmark_of((1,)).tasks[0].validation.rows[0], first[1])


@pytest.mark.parametrize(
    ("scenario", "tasks", "classes", "outputs"),
    [
        ("task", 5, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)], 10),
        ("class", 5, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)], 10),
        ("domain", 5, [(0, 1)] * 5, 2),
        ("task", 3, [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)], 10),
        ("class", 3, [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)], 10),
        ("domain", 2, [(0, 1, 2, 3, 4)] * 2, 5),
    ],
)
def test_split_tasks_have_these_outputs(scenario, tasks, classes, outputs):
    built = benchmark_of(scenario=scenario, tasks=tasks)
    assert [task.classes for task in built.tasks] == classes
    assert [task.index for task in built.tasks] == list(range(1, tasks + 1))
    assert (built.outputs, built.inputs) == (outputs, 64)


@pytest.mark.parametrize(
    ("scenario", "first_output", "outputs"),
    [("domain", [0, 0, 0], 10), ("task", [0, 10, 20], 30), ("class", [0, 10, 20], 30)],
)
def test_permuted_tasks_have_a_block_of_outputs_each_unless_domain_incremental(scenario, first_output, outputs):
    built = benchmark_of(benchmark="permuted-digits", scenario=scenario, tasks=3)
    assert built.outputs == outputs
    for task, first in zip(built.tasks, first_output, strict=True):
        assert task.classes == tuple(range(first, first + 10))
        _, labels = task.train.batch(torch.arange(40).expand(3, -1))
        assert torch.equal(labels, task.train.labels[task.train.rows[:, :40]] + first)


@pytest.mark.parametrize(("scenario", "offsets"), [("task", [0, 0]), ("class", [0, 0]), ("domain", [0, 5])])
def test_labels_are_global_ids_or_positions_within_the_task(scenario, offsets):
    built = benchmark_of(scenario=scenario, tasks=2)
    for task, offset in zip(built.tasks, offsets, strict=True):
        for samples in (task.train, task.validation):
            (everything,) = samples.chunks(10_000)
            _, labels = samples.batch(everything)
            assert torch.equal(labels, samples.labels[samples.rows] - offset)
            assert labels.unique().tolist() == list(task.classes)


def test_answers_are_those_of_the_three_scenarios():
    groups = [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)]
    seen = [(), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5, 6), tuple(range(10))]
    task, domain, by_class = (
        benchmark_of((0,), scenario=scenario, tasks=tasks) for scenario, tasks in zip(SCENARIOS, (3, 2, 3), strict=True)
    )
    for i in range(4):
        for k in (1, 2, 3):
            assert task.answers(i, k) == groups[k - 1]
            assert by_class.answers(i, k) == seen[i]
    assert {domain.answers(i, k) for i in range(3) for k in (1, 2)} == {(0, 1, 2, 3, 4)}
    assert [task.seen(i) for i in range(4)] == seen


def test_accuracy_on_future_tasks_is_undefined_in_class_incremental_only():
    task, domain, by_class = (benchmark_of((0,), scenario=scenario) for scenario in SCENARIOS)
    for i in range(6):
        for k in range(1, 6):
            assert task.is_defined(i, k)
            assert domain.is_defined(i, k)
            assert by_class.is_defined(i, k) == (k <= i)


def test_permutations_differ_by_seed_and_task_and_the_first_task_has_none():
    built = benchmark_of(benchmark="permuted-digits", tasks=4)
    orders = torch.stack([task.train.pixels for task in built.tasks])  # [T, M, D]
    assert torch.equal(orders.sort(-1).values, torch.arange(64).expand(4, 3, 64))
    assert torch.equal(orders[0], torch.arange(64).expand(3, -1))
    assert len({tuple(order.tolist()) for order in orders[1:].flatten(0, 1)}) == 9
    for task in built.tasks:
        assert torch.equal(task.train.pixels, task.validation.pixels)


def test_a_members_permutations_do_not_depend_on_the_other_members():
    config = TrialConfig.of("finetuning", {"epochs": 1, "benchmark": "permuted-digits"})
    assert torch.equal(pixel_orders(config, 3, (5, 9), 64)[1:], pixel_orders(config, 3, (9,), 64))


@pytest.mark.parametrize("benchmark", ["split-digits", "permuted-digits"])
def test_a_batch_is_the_source_rows_divided_by_the_maximum(benchmark):
    inputs, labels = training_data("digits", None)
    task = benchmark_of(benchmark=benchmark, scenario="task", tasks=3).tasks[2]
    positions = torch.tensor([[3, 0, 7], [1, 1, 50], [9, 2, 4]])
    batch, answers = task.train.batch(positions)
    assert batch.min() >= 0
    assert batch.max() <= 1
    for m in range(3):
        for b in range(3):
            row = task.train.rows[m, positions[m, b]]
            pixels = inputs[row] if benchmark == "split-digits" else inputs[row][task.train.pixels[m]]
            assert torch.equal(batch[m, b], pixels / 16)
            offset = 0 if benchmark == "split-digits" else 20
            assert answers[m, b] == labels[row] + offset


def test_inputs_reach_from_zero_to_one(tmp_path):
    write_mnist(tmp_path, "train", per_class=4, seed=6)
    for built in (benchmark_of(), benchmark_of(benchmark="split-mnist", data_root=tmp_path)):
        train = built.tasks[0].train
        (everything,) = train.chunks(10_000)
        values, _ = train.batch(everything)
        assert (values.min(), values.max()) == (0, 1)


@pytest.mark.parametrize("size", [1, 7, 1024])
def test_chunks_go_through_all_samples_in_order(size):
    train = benchmark_of().tasks[0].train
    chunks = train.chunks(size)
    assert torch.equal(torch.cat(chunks, 1), torch.arange(len(train)).expand(3, -1))
    assert max(chunk.shape[1] for chunk in chunks) <= size


def test_members_and_tasks_share_the_source():
    built = benchmark_of(benchmark="permuted-digits")
    parts = [part.inputs for task in built.tasks for part in (task.train, task.validation)]
    assert len({part.data_ptr() for part in parts}) == 1
