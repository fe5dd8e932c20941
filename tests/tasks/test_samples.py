"""Samples and batches of members that may differ in size."""

import itertools
import math

import pytest
import torch

from clsearch.config.sections import Scenario
from clsearch.tasks import samples as samples_module
from clsearch.tasks.samples import Batch, Mixture, load_batches, make_batches, stack_rows
from tests.helpers import CPU, everything, tiny_benchmark

VALUES = torch.tensor([[1.0, 2.0, 6.0], [4.0, 8.0, 1e30], [1e30, torch.inf, torch.nan]])
VALID = torch.tensor([[True] * 3, [True, True, False], [False] * 3])


def test_sums_and_means_over_a_batch_are_of_what_counts():
    batch = Batch(torch.zeros(3, 3, dtype=torch.int64), VALID)
    assert batch.sizes.tolist() == [3, 2, 0]
    assert batch.sum(VALUES).tolist() == [9, 12, 0]
    assert batch.mean(VALUES).tolist() == [3, 6, 0]


def test_a_batch_in_which_all_count():
    batch = Batch(torch.zeros(2, 3, dtype=torch.int64))
    assert batch.sizes.tolist() == [3, 3]
    assert batch.sum(VALUES[:1].expand(2, -1)).tolist() == [9, 9]
    assert batch.mean(VALUES[:1].expand(2, -1)).tolist() == [3, 3]


def test_no_gradient_comes_from_what_does_not_count():
    values = VALUES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(Batch(torch.zeros(3, 3), VALID).mean(values).sum(), values)
    torch.testing.assert_close(slope, torch.tensor([[1 / 3] * 3, [0.5, 0.5, 0.0], [0.0] * 3]))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("lengths", [(7, 7), (7, 3, 0), (2, 6), (1,), (0, 5)])
def test_batches_are_each_members_order_cut_up(lengths, size):
    generator = torch.Generator().manual_seed(1)
    orders = [torch.randperm(n, generator=generator) + 1 for n in lengths]
    batches = make_batches(orders, size, CPU)
    assert len(batches) == -(-max(lengths) // size)
    if len(set(lengths)) == 1:
        assert all(batch.valid is None for batch in batches)
    for m, order in enumerate(orders):
        found = []
        for batch in batches:
            valid = torch.ones_like(batch.positions, dtype=torch.bool) if batch.valid is None else batch.valid
            assert batch.positions.shape == valid.shape
            assert batch.positions.shape[1] <= size
            found.append(batch.positions[m][valid[m]].tolist())
            assert (batch.positions[m][~valid[m]] == 0).all()
        assert found == [order[i * size : (i + 1) * size].tolist() for i in range(len(batches))]


def test_rows_are_filled_up_with_each_members_first():
    stacked = stack_rows([torch.tensor([4, 2]), torch.tensor([7]), torch.tensor([1, 9, 5])])
    assert stacked.tolist() == [[4, 2, 4], [7, 7, 7], [1, 9, 5]]


def train_of(samples):
    return tiny_benchmark(Scenario.TASK, (2, 3), members=len(samples), samples=samples).tasks[1].train


@pytest.mark.parametrize("size", [1, 4, 7, 1024])
@pytest.mark.parametrize("sizes", [(9, 9, 9), (9, 4, 6)])
def test_passes_go_through_all_samples_in_order(size, sizes):
    train = train_of(sizes)
    batches = train.in_order(size)
    for m, n in enumerate(sizes):
        positions = [
            p
            for batch in batches
            for p, ok in zip(
                batch.positions[m].tolist(),
                [True] * 99 if batch.valid is None else batch.valid[m].tolist(),
                strict=False,
            )
            if ok
        ]
        assert positions == list(range(n))
    assert max(batch.positions.shape[1] for batch in batches) <= size


def test_a_pass_without_a_size_takes_1024_at_a_time():
    batches = train_of((1500,)).in_order()
    assert [batch.positions.shape[1] for batch in batches] == [1024, 476]


def test_samples_are_taken_from_each_members_own_rows_and_outputs():
    train = train_of((9, 4))
    positions = torch.tensor([[3, 0, 8], [1, 1, 3]])
    inputs, labels = train.take(positions)
    for m, b in itertools.product(range(2), range(3)):
        row = train.rows[m, positions[m, b]]
        assert torch.equal(inputs[m, b], train.inputs[row].float() / 255)
        assert labels[m, b] == train.outputs[m, train.labels[row]]
        assert labels[m, b] in (2, 3, 4)


@pytest.mark.parametrize(
    ("most", "sizes"), [(3, (3, 2)), (9, (9, 4)), (100, (9, 4)), (1, (1, 1)), (4, (3, 4)), (5, (5, 4))]
)
def test_thinned_samples_are_evenly_spread(most, sizes):
    train = train_of((9, 4))
    thinned = train.thinned(most)
    assert thinned.sizes == sizes
    for m, n in enumerate((9, 4)):
        step = math.ceil(n / most)
        assert sizes[m] <= most
        assert thinned.rows[m, : sizes[m]].tolist() == train.rows[m, :n:step].tolist()
        assert set(everything(thinned, m)[1].tolist()) <= {2, 3, 4}


def test_a_mixture_of_members_of_different_sizes_is_a_concatenation():
    first, second = (task.train for task in tiny_benchmark(Scenario.CLASS, (2, 3), samples=(9, 4)).tasks)
    third = tiny_benchmark(Scenario.CLASS, (2, 3), samples=(2, 6)).tasks[1].train
    mixture = Mixture((first, second, third))
    assert mixture.sizes == (20, 14)
    for m in range(2):
        inputs, labels = everything(mixture, m)
        expected = [everything(part, m) for part in (first, second, third)]
        assert torch.equal(inputs, torch.cat([x for x, _ in expected]))
        assert torch.equal(labels, torch.cat([y for _, y in expected]))


def test_a_mixture_of_one_is_that_one():
    train = train_of((9, 4))
    positions = torch.tensor([[3, 0, 8], [1, 1, 3]])
    for ours, theirs in zip(Mixture((train,)).take(positions), train.take(positions), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("at_once", [1, 30, 10**6])
@pytest.mark.parametrize("mixed", [False, True])
def test_what_is_taken_for_several_batches_at_a_time_is_what_each_takes(monkeypatch, at_once, mixed):
    monkeypatch.setattr(samples_module, "MAX_GATHER_ELEMENTS", at_once)
    benchmark = tiny_benchmark(Scenario.CLASS, (2, 3), members=2, samples=(9, 5))
    samples = Mixture(tuple(task.train for task in benchmark.tasks)) if mixed else benchmark.tasks[0].train
    batches = make_batches([torch.randperm(n) for n in samples.sizes], 4, CPU)
    found = list(load_batches(samples, batches))
    assert len(found) == len(batches) == (5 if mixed else 3)
    for own, batch in zip(found, batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(own, samples.take(batch.positions), strict=True))
    assert samples.width == own[0].shape[-1]
