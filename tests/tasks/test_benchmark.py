"""Tasks, their labels and answers, and what is held back for validation."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from clsearch.data.datasets import SOURCES, Data, training_data
from clsearch.methods.registry import configure
from clsearch.tasks import benchmark as benchmarks
from clsearch.tasks.benchmark import (
    build_benchmark,
    classes_of,
    cut_by_class,
    draw_angles,
    draw_pixel_orders,
    shrink,
    to_tensor,
)
from clsearch.tasks.samples import Samples
from tests.helpers import CPU, beyond, everything, random_images, same_samples, write_images, write_mnist

SEEDS = (0, 1, 7)
SCENARIOS = ("task", "domain", "class")


def benchmark_of(seeds=SEEDS, sequence=None, **settings):
    return build_benchmark(configure("finetuning", {"epochs": 1} | settings), seeds, CPU, sequence=sequence)


def source_labels(samples: Samples, m: int):
    return samples.labels[samples.rows[m]]


@pytest.mark.parametrize("benchmark", ["split-digits", "permuted-digits", "rotated-digits"])
def test_validation_and_training_data_are_disjoint_and_together_the_source(benchmark):
    labels = to_tensor(training_data(SOURCES["digits"], None).labels)
    for m in range(len(SEEDS)):
        for task in benchmark_of(benchmark=benchmark, tasks=5).tasks:
            train, validation = set(task.train.rows[m].tolist()), set(task.validation.rows[m].tolist())
            assert not train & validation
            members = source_labels(task.train, m).unique()
            assert train | validation == set(torch.isin(labels, members).nonzero().squeeze(1).tolist())


def test_a_quarter_of_each_digit_is_validation_data():
    total = to_tensor(training_data(SOURCES["digits"], None).labels).bincount(minlength=10)
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
            assert task.train.sizes == (54, 54, 54)


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
        _, labels = task.train.take(torch.arange(40).expand(3, -1))
        assert torch.equal(labels, task.train.labels[task.train.rows[:, :40]] + first)


@pytest.mark.parametrize(("scenario", "offsets"), [("task", [0, 0]), ("class", [0, 0]), ("domain", [0, 5])])
def test_labels_are_global_ids_or_positions_within_the_task(scenario, offsets):
    built = benchmark_of(scenario=scenario, tasks=2)
    for task, offset in zip(built.tasks, offsets, strict=True):
        for samples in (task.train, task.validation):
            (batch,) = samples.in_order(10_000)
            _, labels = samples.take(batch.positions)
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
            assert task.active_outputs(i, k) == groups[k - 1]
            assert by_class.active_outputs(i, k) == seen[i]
    assert {domain.active_outputs(i, k) for i in range(3) for k in (1, 2)} == {(0, 1, 2, 3, 4)}
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
    first, *others = built.tasks
    assert first.train.view is first.validation.view is None
    orders = torch.stack([task.train.view.order for task in others])  # [T - 1, M, D]
    assert torch.equal(orders.sort(-1).values, torch.arange(64).expand(3, 3, 64))
    assert len({tuple(order.tolist()) for order in orders.flatten(0, 1)}) == 9
    assert not any(torch.equal(order, torch.arange(64)) for order in orders.flatten(0, 1))
    for task in others:
        assert torch.equal(task.train.view.order, task.validation.view.order)


def test_a_members_permutations_do_not_depend_on_the_other_members():
    assert torch.equal(draw_pixel_orders(3, (5, 9), 64)[1:], draw_pixel_orders(3, (9,), 64))


@pytest.mark.parametrize("benchmark", ["split-digits", "permuted-digits"])
def test_a_batch_is_the_source_rows_divided_by_the_maximum(benchmark):
    data = training_data(SOURCES["digits"], None)
    inputs, labels = to_tensor(data.inputs), to_tensor(data.labels)
    task = benchmark_of(benchmark=benchmark, scenario="task", tasks=3).tasks[2]
    positions = torch.tensor([[3, 0, 7], [1, 1, 50], [9, 2, 4]])
    batch, answers = task.train.take(positions)
    assert batch.min() >= 0
    assert batch.max() <= 1
    for m in range(3):
        for b in range(3):
            row = task.train.rows[m, positions[m, b]]
            pixels = inputs[row] if benchmark == "split-digits" else inputs[row][task.train.view.order[m]]
            assert torch.equal(batch[m, b], pixels / 16)
            offset = 0 if benchmark == "split-digits" else 20
            assert answers[m, b] == labels[row] + offset


def test_inputs_reach_from_zero_to_one(tmp_path):
    write_mnist(tmp_path, "train", per_class=4, seed=6)
    for built in (benchmark_of(), benchmark_of(benchmark="split-mnist", data_root=tmp_path)):
        train = built.tasks[0].train
        (batch,) = train.in_order(10_000)
        values, _ = train.take(batch.positions)
        assert (values.min(), values.max()) == (0, 1)


def test_members_and_tasks_share_the_source():
    built = benchmark_of(benchmark="permuted-digits")
    parts = [part.inputs for task in built.tasks for part in (task.train, task.validation)]
    assert len({part.data_ptr() for part in parts}) == 1


# --- class order and classes per task ---

UNEQUAL = {"class_order": "shuffled", "classes_per_task": (2, 3, 5)}


def config_of(**settings):
    return configure("finetuning", {"epochs": 1} | settings)


def test_a_benchmark_knows_its_seeds():
    assert benchmark_of((4, 2)).seeds == (4, 2)
    assert shrink(benchmark_of((4, 2)), 2, 10).seeds == (4, 2)


@pytest.mark.parametrize("settings", [{}, {"tasks": 3}, {"classes_per_task": (2, 3, 5)}])
def test_a_shuffled_class_order_is_a_permutation_that_depends_on_the_seed_alone(settings):
    config = config_of(class_order="shuffled", **settings)
    orders = [[classes_of(config, index, seed) for index in range(1, config.tasks + 1)] for seed in range(20)]
    assert all(sorted(itertools.chain(*order)) == list(range(10)) for order in orders)
    assert len({str(order) for order in orders}) == 20
    assert orders == [[classes_of(config, index, seed) for index in range(1, config.tasks + 1)] for seed in range(20)]
    # However it is cut into tasks, the order is the same.
    pairs = [classes_of(config_of(class_order="shuffled"), index, 7) for index in range(1, 6)]
    assert list(itertools.chain(*orders[7])) == list(itertools.chain(*pairs))


def test_every_class_comes_first_for_some_seed():
    config = config_of(class_order="shuffled")
    assert {classes_of(config, 1, seed)[0] for seed in range(100)} == set(range(10))


def test_a_fixed_class_order_is_that_of_the_labels_for_every_seed():
    for seed in range(5):
        assert [classes_of(config_of(), index, seed) for index in (1, 5)] == [[0, 1], [8, 9]]


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_outputs_are_the_same_for_all_seeds_whatever_classes_stand_behind_them(scenario):
    built = benchmark_of(scenario=scenario, **UNEQUAL)
    assert [task.classes for task in built.tasks] == [(0, 1), (2, 3, 4), (5, 6, 7, 8, 9)]
    config = config_of(scenario=scenario, **UNEQUAL)
    for task in built.tasks:
        for part in (task.train, task.validation):
            for m, seed in enumerate(SEEDS):
                own = classes_of(config, task.index, seed)
                _, labels = everything(part, m)
                expected = [task.classes[own.index(label)] for label in source_labels_of(part, m)]
                assert labels.tolist() == expected
                assert sorted(set(expected)) == list(task.classes)


def source_labels_of(samples: Samples, m: int) -> list[int]:
    return samples.labels[samples.rows[m, : samples.sizes[m]]].tolist()


def test_shuffled_domain_incremental_tasks_share_outputs():
    built = benchmark_of(scenario="domain", class_order="shuffled")
    config = config_of(scenario="domain", class_order="shuffled")
    assert [task.classes for task in built.tasks] == [(0, 1)] * 5
    for task in built.tasks:
        for m, seed in enumerate(SEEDS):
            own = classes_of(config, task.index, seed)
            _, labels = everything(task.train, m)
            assert labels.tolist() == [own.index(label) for label in source_labels_of(task.train, m)]


def test_members_of_a_shuffled_benchmark_differ_in_size_and_equal_themselves_alone():
    together = benchmark_of(**UNEQUAL)
    assert len(set(together.tasks[0].train.sizes)) > 1
    for m, seed in enumerate(SEEDS):
        for ours, theirs in zip(together.tasks, benchmark_of((seed,), **UNEQUAL).tasks, strict=True):
            for a, b in ((ours.train, theirs.train), (ours.validation, theirs.validation)):
                assert a.sizes[m] == b.sizes[0]
                assert torch.equal(a.rows[m, : a.sizes[m]], b.rows[0])
                assert torch.equal(a.outputs[m], b.outputs[0])


def test_all_data_of_a_members_tasks_are_taken_and_none_twice():
    labels = to_tensor(training_data(SOURCES["digits"], None).labels)
    built = benchmark_of(**UNEQUAL)
    for m in range(3):
        taken = [
            row
            for task in built.tasks
            for part in (task.train, task.validation)
            for row in part.rows[m, : part.sizes[m]].tolist()
        ]
        assert sorted(taken) == list(range(len(labels)))


def test_which_samples_of_a_class_are_validation_data_does_not_depend_on_the_class_order():
    fixed, shuffled = benchmark_of(), benchmark_of(class_order="shuffled")
    for m in range(3):
        held = [
            sorted(row for task in built.tasks for row in task.validation.rows[m, : task.validation.sizes[m]].tolist())
            for built in (fixed, shuffled)
        ]
        assert held[0] == held[1]


@pytest.mark.parametrize("order", ["fixed", "shuffled"])
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_fewer_classes_than_the_source_has(scenario, order):
    built = benchmark_of(scenario=scenario, class_order=order, classes_per_task=(3, 3))
    assert built.outputs == (3 if scenario == "domain" else 6)
    config = config_of(scenario=scenario, class_order=order, classes_per_task=(3, 3))
    for m, seed in enumerate(SEEDS):
        own = [classes_of(config, index, seed) for index in (1, 2)]
        if order == "fixed":
            assert own == [[0, 1, 2], [3, 4, 5]]
        assert len(set(own[0] + own[1])) == 6
        for task, classes in zip(built.tasks, own, strict=True):
            for part in (task.train, task.validation):
                assert set(source_labels_of(part, m)) == set(classes)
                assert set(everything(part, m)[1].tolist()) == set(task.classes)


def test_a_miniature_has_a_few_samples_of_every_class_of_the_first_tasks():
    built = benchmark_of(**UNEQUAL)
    small = shrink(built, 2, 20)
    assert len(small.tasks) == 2
    assert (small.outputs, small.inputs, small.scenario) == (built.outputs, built.inputs, built.scenario)
    for task, whole in zip(small.tasks, built.tasks, strict=False):
        for part, full in ((task.train, whole.train), (task.validation, whole.validation)):
            for m in range(3):
                assert 10 < part.sizes[m] <= 20
                assert set(part.rows[m].tolist()) <= set(full.rows[m].tolist())
                assert set(everything(part, m)[1].tolist()) == set(task.classes)


# --- rotated benchmarks ---


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rotated_tasks_have_the_outputs_of_permuted_ones(scenario):
    built = benchmark_of(benchmark="rotated-digits", scenario=scenario, tasks=3)
    assert built.outputs == (10 if scenario == "domain" else 30)
    for index, task in enumerate(built.tasks):
        first = 0 if scenario == "domain" else 10 * index
        assert task.classes == tuple(range(first, first + 10))
        for part in (task.train, task.validation):
            (batch,) = part.in_order(10_000)
            _, labels = part.take(batch.positions)
            assert torch.equal(labels, part.labels[part.rows] + first)


@pytest.mark.parametrize("kind", ["permuted", "rotated"])
def test_the_first_task_of_images_seen_otherwise_is_as_they_are(kind):
    shown, split = (benchmark_of(benchmark=f"{name}-digits", tasks=2, scenario="class") for name in (kind, "split"))
    first = shown.tasks[0]
    assert first.train.view is first.validation.view is None
    assert all(part.view is None for task in split.tasks for part in (task.train, task.validation))
    inputs, _ = first.train.take(torch.zeros(3, 1, dtype=torch.int64))
    assert torch.equal(inputs[:, 0], first.train.inputs[first.train.rows[:, 0]] / 16)


def turned_by(task, m):
    """Degrees, from where the grid of a member's views takes the pixel right of the centre."""
    grid = task.train.view.grid[m].double()
    across = grid[:, -1] - grid[:, 0]
    return math.degrees(math.atan2(across[0, 1], across[0, 0])) % 360


@pytest.mark.parametrize("tasks", [2, 5, 20])
def test_each_task_turns_by_an_angle_of_its_own_part_of_the_half_turn(tasks):
    for index in range(1, tasks + 1):
        degrees = draw_angles(index, tasks, range(200))
        assert degrees.shape == (200,)
        assert (degrees >= (index - 1) * 180 / tasks).all()
        assert (degrees <= index * 180 / tasks).all()
        assert degrees.max() - degrees.min() > 0.9 * 180 / tasks
    built = benchmark_of(benchmark="rotated-digits", tasks=tasks)
    for task in built.tasks[1:]:
        expected = draw_angles(task.index, tasks, SEEDS)
        for m in range(len(SEEDS)):
            assert turned_by(task, m) == pytest.approx(expected[m].item(), abs=1e-3)
        assert torch.equal(task.train.view.grid, task.validation.view.grid)


def test_angles_follow_the_seed_and_the_task_and_not_the_other_members():
    assert torch.equal(draw_angles(3, 5, (4, 9, 2))[1:], draw_angles(3, 5, (9, 2)))
    assert torch.equal(draw_angles(3, 5, (4, 9)), draw_angles(3, 5, (4, 9)))
    within = torch.stack([draw_angles(index, 5, range(10)) - (index - 1) * 36 for index in range(1, 6)])
    assert len(set(within.flatten().tolist())) == 50
    together, alone = (benchmark_of(seeds, benchmark="rotated-digits", tasks=3) for seeds in ((4, 9), (9,)))
    for ours, own in zip(together.tasks[1:], alone.tasks[1:], strict=True):
        assert torch.equal(ours.train.view.grid[1], own.train.view.grid[0])
        positions = torch.arange(20)[None]
        torch.testing.assert_close(ours.train.take(positions.expand(2, -1))[0][1], own.train.take(positions)[0][0])


# --- some of the tasks ---

EQUAL, MIXED = {"classes_per_task": (2, 2, 2, 2)}, {"classes_per_task": (2, 3, 2, 3)}
OF_FOUR = [
    {"scenario": "task", "tasks": 4},
    {"scenario": "domain", **EQUAL},
    {"scenario": "class", **MIXED},
    {"scenario": "task", "class_order": "shuffled", **MIXED},
    {"scenario": "domain", "class_order": "shuffled", **EQUAL},
    {"scenario": "class", "class_order": "shuffled", **MIXED},
    *({"benchmark": "permuted-digits", "scenario": scenario, "tasks": 4} for scenario in ("domain", "class")),
    *({"benchmark": "rotated-digits", "scenario": scenario, "tasks": 4} for scenario in ("domain", "task")),
]
SEQUENCES = [(1,), (1, 2), (1, 2, 3), (3, 4), (1, 3), (4,)]


@pytest.mark.slow
@pytest.mark.parametrize("settings", OF_FOUR)
def test_tasks_of_a_sequence_are_what_they_are_among_all(settings):
    whole = benchmark_of(**settings)
    for sequence in SEQUENCES:
        some = benchmark_of(sequence=sequence, **settings)
        for name in ("scenario", "seeds", "outputs", "shape", "inputs"):
            assert getattr(some, name) == getattr(whole, name)
        assert [task.index for task in some.tasks] == list(range(1, len(sequence) + 1))
        assert [task.origin for task in some.tasks] == list(sequence)
        for task in some.tasks:
            among_all = whole.tasks[task.origin - 1]
            assert (among_all.index, among_all.origin) == (task.origin, task.origin)
            assert task.classes == among_all.classes
            assert same_samples(task.train, among_all.train)
            assert same_samples(task.validation, among_all.validation)


def test_all_tasks_are_learned_unless_told_otherwise():
    for sequence in (None, range(1, 6), [1, 2, 3, 4, 5]):
        assert [(task.index, task.origin) for task in benchmark_of(sequence=sequence).tasks] == [
            (t, t) for t in range(1, 6)
        ]


def test_answers_and_what_was_seen_are_of_the_tasks_that_are_learned():
    task, domain, by_class = (benchmark_of((0,), (1, 4), scenario=scenario) for scenario in SCENARIOS)
    assert [by_class.seen(i) for i in range(3)] == [(), (0, 1), (0, 1, 6, 7)]
    assert [[by_class.active_outputs(i, k) for k in (1, 2)] for i in (1, 2)] == [[(0, 1)] * 2, [(0, 1, 6, 7)] * 2]
    assert [task.active_outputs(2, k) for k in (1, 2)] == [(0, 1), (6, 7)]
    assert [domain.active_outputs(2, k) for k in (1, 2)] == [(0, 1)] * 2
    assert [by_class.is_defined(1, k) for k in (1, 2)] == [True, False]


@pytest.mark.parametrize("settings", OF_FOUR)
def test_tasks_beyond_a_sequence_are_not_built(settings, monkeypatch):
    for name in ("build_view", "classes_of", "output_map"):
        monkeypatch.setattr(benchmarks, name, beyond(2, getattr(benchmarks, name)))
    assert len(benchmark_of(sequence=(1, 2), **settings).tasks) == 2
    with pytest.raises(AssertionError, match="task 3 was looked at"):
        benchmark_of(sequence=(1, 2, 3), **settings)


@pytest.mark.parametrize("sequence", [(0, 1), (1, 6), (6,), (-1,), (2, 1), (1, 1), (1, 2, 2, 3), (1.5,)])
def test_a_sequence_that_does_not_rise_within_the_tasks_is_refused(sequence):
    got = " ".join(map(str, sequence))
    with pytest.raises(ValueError, match=f"^sequence: must increase, within 1 to 5; got {got}$"):
        benchmark_of(sequence=sequence)


def test_a_miniature_keeps_what_its_tasks_are_numbered():
    small = shrink(benchmark_of(sequence=(2, 3, 5)), 2, 10)
    assert [(task.index, task.origin) for task in small.tasks] == [(1, 2), (2, 3)]


# --- sources of all kinds ---


def test_a_benchmark_knows_the_shape_of_its_inputs():
    for name, shape in (("split-digits", (1, 8, 8)), ("rotated-digits", (1, 8, 8))):
        built = benchmark_of(benchmark=name, tasks=2)
        assert (built.shape, built.inputs) == (shape, 64)
        assert shrink(built, 2, 10).shape == shape
    data = Data(SOURCES["cifar10"], random_images(60, (3, 32, 32), 0).reshape(60, -1), np.repeat(np.arange(10), 6))
    built = build_benchmark(config_of(benchmark="split-cifar10"), SEEDS, CPU, data)
    assert (built.shape, built.inputs) == ((3, 32, 32), 3072)
    assert everything(built.tasks[0].train, 0)[0].shape == (10, 3072)


def groups_of(tmp_path, text):
    (tmp_path / "groups.txt").write_text(text)
    return {"grouping": tmp_path / "groups.txt"}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_groups_decide_the_classes_of_each_task_and_their_order(scenario, tmp_path):
    settings = {"scenario": scenario, **groups_of(tmp_path, "7, 2, 9\n0, 5, 1\n")}
    built = benchmark_of(**settings)
    groups = [(7, 2, 9), (0, 5, 1)]
    assert built.outputs == (3 if scenario == "domain" else 6)
    for index, (task, own) in enumerate(zip(built.tasks, groups, strict=True)):
        first = 0 if scenario == "domain" else 3 * index
        assert task.classes == (first, first + 1, first + 2)
        for part in (task.train, task.validation):
            for m, seed in enumerate(SEEDS):
                assert classes_of(config_of(**settings), task.index, seed) == list(own)
                _, labels = everything(part, m)
                assert labels.tolist() == [first + own.index(c) for c in source_labels_of(part, m)]
                assert set(labels.tolist()) == set(task.classes)


def test_groups_of_the_labels_in_order_are_the_tasks_without_them(tmp_path):
    plain = benchmark_of(tasks=5)
    grouped = benchmark_of(**groups_of(tmp_path, "0,1\n2,3\n4,5\n6,7\n8,9"))
    for ours, theirs in zip(plain.tasks, grouped.tasks, strict=True):
        assert ours.classes == theirs.classes
        for a, b in ((ours.train, theirs.train), (ours.validation, theirs.validation)):
            assert torch.equal(a.rows, b.rows)
            assert torch.equal(a.outputs, b.outputs)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_groups_name_the_classes_of_a_folder(scenario, tmp_path, image_cache):
    names = ["cat", "dog", "eel", "fox", "gnu"]
    images = {name: random_images(8, (3, 4, 4), seed) for seed, name in enumerate(names)}
    write_images(tmp_path / "pets" / "train", images)
    grouping = groups_of(tmp_path, "gnu, cat\nfox, dog\n")
    built = benchmark_of(benchmark=f"folder:{tmp_path / 'pets'}", scenario=scenario, **grouping)
    known = {image.tobytes(): name for name, own in images.items() for image in own}
    found = []
    for task, own in zip(built.tasks, (("gnu", "cat"), ("fox", "dog")), strict=True):
        for part in (task.train, task.validation):
            inputs, labels = everything(part, 0)
            rows = [(255 * row).round().byte().numpy().tobytes() for row in inputs]
            assert [known[row] for row in rows] == [own[task.classes.index(label)] for label in labels.tolist()]
            found += rows
    assert sorted(found) == sorted(row for row, name in known.items() if name != "eel")


def read_only(array):
    array.setflags(write=False)
    return array


@pytest.mark.parametrize("of", [np.array, lambda values: read_only(np.array(values))], ids=["writable", "read-only"])
def test_inputs_are_used_where_they_lie_and_not_copied(of):
    given = training_data(SOURCES["digits"], None)
    data = Data(given.source, of(given.inputs), of(given.labels))
    built = build_benchmark(config_of(), SEEDS, CPU, data)
    for task in built.tasks:
        for part in (task.train, task.validation):
            assert part.inputs.data_ptr() == data.inputs.ctypes.data
            assert part.labels.data_ptr() == data.labels.ctypes.data


def test_data_that_is_handed_over_is_used_and_nothing_is_read():
    labels = np.tile(np.arange(10), 12)
    data = Data(SOURCES["mnist"], random_images(120, (1, 28, 28), 1).reshape(120, 784), labels)
    built = build_benchmark(config_of(benchmark="split-mnist"), (3,), CPU, data)  # there is no data root
    parts = [part for task in built.tasks for part in (task.train, task.validation)]
    rows = sorted(tuple((255 * x).round().int().tolist()) for part in parts for x in everything(part, 0)[0])
    assert rows == sorted(map(tuple, data.inputs.tolist()))


@pytest.mark.slow
def test_inputs_that_cannot_be_written_are_taken_without_a_warning():
    """In a process of its own, as torch warns but once."""
    code = (
        "import warnings, numpy, clsearch.tasks.benchmark as b; warnings.simplefilter('error'); "
        "a = numpy.zeros(3); a.setflags(write=False); print(b.to_tensor(a).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[0.0, 0.0, 0.0]", "")
