"""Parameter change against its formula, written out in plain loops in double precision."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from clsearch.config.sections import Scenario
from clsearch.methods.base import Penalty, Student
from clsearch.methods.ewc import ElasticWeightConsolidation
from clsearch.methods.penalties.fisher import Fisher, scale_fisher
from clsearch.networks.mlp import MLP, Params, is_head, output_mask, trainable_copy
from clsearch.tasks.benchmark import Benchmark
from clsearch.tasks.samples import Batch
from tests.helpers import CPU, doubled, member_of, network_for, pairs, random_params, tiny_benchmark

TASK, DOMAIN, CLASS = Scenario.TASK, Scenario.DOMAIN, Scenario.CLASS

# Three tasks. Ten classes in unequal groups; domain-incremental has three shared ones.
GROUPS = {TASK: (4, 3, 3), DOMAIN: (3, 3, 3), CLASS: (4, 3, 3)}
FIRST, SECOND, BOTH, SHARED = (0, 1, 2, 3), (4, 5, 6), (0, 1, 2, 3, 4, 5, 6), (0, 1, 2)
FACTORS = (0.7, 1.9)
EMPIRICAL = Fisher("empirical", None, 4)
PUBLISHED = ElasticWeightConsolidation(merged=False, average=False, fisher=EMPIRICAL, scale="none", online=None)


def consolidated(network: MLP, tasks: int) -> tuple[dict[str, Tensor], list[Params], list[Params]]:
    """A memory of anchors and importances drawn at random, a third of the importances being 0; and both."""
    generator = torch.Generator().manual_seed(11)
    anchors = [random_params(network, 2, seed) for seed in range(1, tasks + 1)]
    importances = [
        {n: (torch.rand(v.shape, generator=generator) - 0.33).clamp_min(0) for n, v in anchor.items()}
        for anchor in anchors
    ]
    # Some parameters matter to no task at all.
    for importance in importances:
        importance["backbone.0.weight"][:, 0] = 0
    memory = {
        f"{kind}/{k}/{n}": value
        for kind, values in (("importance", importances), ("anchor", anchors))
        for k, params in enumerate(values, start=1)
        for n, value in params.items()
    }
    return memory, anchors, importances


def prepared_change(
    benchmark: Benchmark,
    memory: dict[str, Tensor],
    t: int,
    p: tuple[float, float],
    merged: bool = False,
    average: bool = False,
) -> Penalty:
    """The penalty of task t, its members differing in factor and exponent."""
    numbers = {"penalty_factor": torch.tensor(FACTORS), "penalty_p_norm": torch.tensor(p)}
    regularizer = replace(PUBLISHED, merged=merged, average=average)
    penalty = regularizer.prepare(network_for(benchmark), benchmark, benchmark.tasks[t - 1], memory, numbers)
    assert penalty is not None
    return penalty


def value_and_slopes(penalty: Penalty, params: Params) -> tuple[Tensor, Params]:
    """The penalty looks at parameters only, so the batch may be empty of meaning."""
    leaves = trainable_copy(params)
    nothing = torch.empty(0)
    value = penalty(Student(leaves, nothing, nothing, nothing), Batch(nothing)).penalty
    slopes = torch.autograd.grad(value.sum(), list(leaves.values()), materialize_grads=True)
    return value.detach(), dict(zip(leaves, slopes, strict=True))


def textbook_change(theta: Params, anchors: list[Params], importances: list[Params], p: float, m: int) -> Tensor:
    """Member m: Σ over tasks and parameters of F |θ - θ*|^p."""
    total = torch.zeros((), dtype=torch.float64)
    for anchor, importance in zip(anchors, importances, strict=True):
        for name, value in theta.items():
            change = (value - anchor[name][m].double()).abs()
            total = total + (importance[name][m].double() * change**p).sum()
    return total


@pytest.mark.parametrize("tasks", [1, 2, 3])
@pytest.mark.parametrize("p", [(1.0, 1.5), (2.0, 3.0), (1.2, 1.0)])
def test_parameter_change_is_the_textbook_loop(p, tasks):
    benchmark = tiny_benchmark(DOMAIN, (2, 2, 2, 2))
    network = network_for(benchmark)
    memory, anchors, importances = consolidated(network, tasks)
    params = random_params(network, 2, 9)
    value, slopes = value_and_slopes(prepared_change(benchmark, memory, tasks + 1, p), params)
    for m in range(2):
        theta = doubled(member_of(params, m))
        expected = FACTORS[m] * textbook_change(theta, anchors, importances, p[m], m)
        assert value[m].item() == pytest.approx(expected.item(), rel=1e-5)
        for name, slope in zip(theta, torch.autograd.grad(expected, list(theta.values())), strict=True):
            torch.testing.assert_close(slopes[name][m].double(), slope, rtol=1e-4, atol=1e-6)
            assert slope.any()


@pytest.mark.parametrize(
    ("p", "merged"), [((1.0, 1.2), False), ((2.0, 3.0), False), ((1.5, 1.0), False), ((2.0, 2.0), True)]
)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_at_the_anchor_penalty_and_slope_are_exactly_zero(p, merged, scale):
    """Adam would make full steps of the smallest slope, where data have none (a pixel that the new task never sets)."""
    benchmark = tiny_benchmark(DOMAIN, (2, 2))
    memory, (anchor,), _ = consolidated(network_for(benchmark), 1)
    memory |= {name: scale * v for name, v in memory.items() if name.startswith("importance/")}
    value, slopes = value_and_slopes(prepared_change(benchmark, memory, 2, p, merged=merged), anchor)
    assert (value == 0).all()
    assert all((slope == 0).all() for slope in slopes.values())


@pytest.mark.parametrize("merged", [False, True])
def test_at_an_anchor_that_all_tasks_share_penalty_and_slope_are_exactly_zero(merged):
    benchmark = tiny_benchmark(DOMAIN, (2, 2, 2, 2))
    memory, (anchor, *_), _ = consolidated(network_for(benchmark), 3)
    memory |= {f"anchor/{k}/{name}": value for k in (2, 3) for name, value in anchor.items()}
    value, slopes = value_and_slopes(prepared_change(benchmark, memory, 4, (2.0, 2.0), merged=merged), anchor)
    assert (value == 0).all()
    assert all((slope == 0).all() for slope in slopes.values())


@pytest.mark.parametrize("step", [2e-38, 1e-20, 1e-7, 1e3])
@pytest.mark.parametrize("p", [1.0, 1.2, 2.0, 3.0])
def test_the_slope_is_finite_however_near_or_far_the_anchor_is(p, step):
    benchmark = tiny_benchmark(DOMAIN, (2, 2))
    memory, (anchor,), (importance,) = consolidated(network_for(benchmark), 1)
    memory |= {name: torch.zeros_like(v) for name, v in memory.items() if name.startswith("anchor/")}
    moved = {name: torch.full_like(value, step) for name, value in anchor.items()}
    _, slopes = value_and_slopes(prepared_change(benchmark, memory, 2, (p, p)), moved)
    for name, slope in slopes.items():
        expected = torch.tensor(FACTORS).view(2, 1, 1) * importance[name] * p * step ** (p - 1)
        torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-30)


def test_the_slope_at_p_1_does_not_depend_on_the_distance_and_points_away_from_the_anchor():
    benchmark = tiny_benchmark(DOMAIN, (2, 2))
    memory, (anchor,), (importance,) = consolidated(network_for(benchmark), 1)
    penalty = prepared_change(benchmark, memory, 2, (1.0, 1.0))
    for step in (-0.5, 0.01, 4.0):
        _, slopes = value_and_slopes(penalty, {name: value + step for name, value in anchor.items()})
        for name, slope in slopes.items():
            expected = torch.tensor(FACTORS).view(2, 1, 1) * importance[name] * math.copysign(1, step)
            torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_one_merged_quadratic_is_the_sum_over_tasks_at_p_2(tasks, average):
    benchmark = tiny_benchmark(DOMAIN, (2, 2, 2, 2))
    network = network_for(benchmark)
    memory, anchors, _ = consolidated(network, tasks)
    merged, separate = (
        prepared_change(benchmark, memory, tasks + 1, (2.0, 2.0), merged=flag, average=average)
        for flag in (True, False)
    )
    for params in (random_params(network, 2, 9), anchors[-1], anchors[0]):
        (value, slopes), (expected, expected_slopes) = (
            value_and_slopes(penalty, params) for penalty in (merged, separate)
        )
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
        for name, slope in slopes.items():
            torch.testing.assert_close(slope, expected_slopes[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("merged", [False, True])
def test_parameters_that_matter_to_no_task_are_free(merged):
    benchmark = tiny_benchmark(DOMAIN, (2, 2, 2))
    network = network_for(benchmark)
    memory, anchors, _ = consolidated(network, 2)
    penalty = prepared_change(benchmark, memory, 3, (2.0, 2.0), merged=merged)
    params = {name: value.clone() for name, value in anchors[-1].items()}
    before, slopes = value_and_slopes(penalty, params)
    assert (slopes["backbone.0.weight"][:, 0] == 0).all()
    params["backbone.0.weight"][:, 0] += 100
    after, slopes = value_and_slopes(penalty, params)
    torch.testing.assert_close(after, before)
    assert (slopes["backbone.0.weight"][:, 0] == 0).all()
    assert all(slope.isfinite().all() for slope in slopes.values())


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("t", [2, 3, 4])
def test_averaging_over_tasks_divides_by_the_number_of_the_current_task(t, merged):
    benchmark = tiny_benchmark(DOMAIN, (2, 2, 2, 2))
    network = network_for(benchmark)
    memory, _, _ = consolidated(network, t - 1)
    params = random_params(network, 2, 9)
    (total, slopes), (average, average_slopes) = (
        value_and_slopes(prepared_change(benchmark, memory, t, (2.0, 2.0), merged, flag), params)
        for flag in (False, True)
    )
    torch.testing.assert_close(average, total / t)
    for name, slope in slopes.items():
        torch.testing.assert_close(average_slopes[name], slope / t)


@pytest.mark.parametrize(("scenario", "head"), [(TASK, False), (DOMAIN, True), (CLASS, True)])
@pytest.mark.parametrize("merged", [False, True])
def test_the_head_is_penalised_only_where_it_is_shared(scenario, head, merged):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario])
    network = network_for(benchmark)
    learned = random_params(network, 2, 1)
    regularizer = replace(PUBLISHED, merged=merged)
    memory = regularizer.remember(network, benchmark, benchmark.tasks[0], learned, {})
    _, slopes = value_and_slopes(
        prepared_change(benchmark, memory, 2, (2.0, 2.0), merged), random_params(network, 2, 2)
    )
    moved = {name for name, slope in slopes.items() if slope.any()}
    assert moved == {name for name in learned if head or not is_head(name)}
    # Rows of classes not seen yet are free even there.
    assert not slopes["head.weight"][..., len(benchmark.tasks[0].classes) :].any()


@pytest.mark.parametrize("scenario", [TASK, DOMAIN, CLASS])
def test_what_is_remembered_is_the_model_and_its_fisher_over_what_may_be_answered(scenario):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario])
    network = network_for(benchmark)
    regularizer = replace(PUBLISHED, merged=True)
    learned = [random_params(network, 2, seed) for seed in (1, 2)]
    memory: dict[str, Tensor] = {}
    for task, params in zip(benchmark.tasks, learned, strict=False):
        memory = regularizer.remember(network, benchmark, task, params, memory)
    names = [n for n in learned[0] if scenario is not TASK or not is_head(n)]
    assert set(memory) == {f"{kind}/{k}/{n}" for kind in ("importance", "anchor") for k in (1, 2) for n in names}
    answers = {TASK: (FIRST, SECOND), DOMAIN: (SHARED, SHARED), CLASS: (FIRST, BOTH)}[scenario]
    for k, params in enumerate(learned, start=1):
        mask = output_mask(answers[k - 1], benchmark.outputs, CPU)
        fisher = EMPIRICAL(network, params, benchmark.tasks[k - 1].train, mask, benchmark.seeds, k)
        for name in names:
            assert torch.equal(memory[f"anchor/{k}/{name}"], params[name])
            assert torch.equal(memory[f"importance/{k}/{name}"], fisher[name])


@pytest.mark.parametrize(
    ("scenario", "kind", "how"),
    pairs(
        [TASK, DOMAIN, CLASS],
        ["empirical", "sampled", "exact", "batch"],
        ["none", "per_parameter", "unit_trace"],
    ),
)
def test_the_fisher_that_is_asked_for_is_remembered_scaled_over_the_penalised_parameters(scenario, kind, how):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario], samples=(9, 6))
    network, task = network_for(benchmark), benchmark.tasks[1]
    params, fisher = random_params(network, 2, 1), Fisher(kind, 5, 2)
    memory = replace(PUBLISHED, fisher=fisher, scale=how).remember(network, benchmark, task, params, {})
    allowed = output_mask(benchmark.active_outputs(2, 2), benchmark.outputs, CPU)
    measured = fisher(network, params, task.train, allowed, benchmark.seeds, 2)
    penalised = {name: value for name, value in measured.items() if scenario is not TASK or not is_head(name)}
    expected = scale_fisher(penalised, how)
    assert {name: value for name, value in memory.items() if name.startswith("importance/")}.keys() == {
        f"importance/2/{name}" for name in penalised
    }
    for name, value in expected.items():
        assert torch.equal(memory[f"importance/2/{name}"], value)
    if how == "unit_trace":
        traces = sum(memory[f"importance/2/{name}"].flatten(1).sum(1) for name in penalised)
        torch.testing.assert_close(traces, torch.ones(2))
    if how == "per_parameter":
        backbone = 5 * 6 + 6 + 6 * 4 + 4
        for name, value in penalised.items():
            torch.testing.assert_close(memory[f"importance/2/{name}"], value / backbone)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_online_keeps_the_newest_anchor_and_a_decayed_sum_of_importances(gamma, merged):
    benchmark = tiny_benchmark(CLASS, (2, 2, 2, 2))
    network = network_for(benchmark)
    learned = [random_params(network, 2, seed) for seed in (1, 2, 3)]
    regularizer = replace(PUBLISHED, online=gamma, merged=merged)
    memory: dict[str, Tensor] = {"teacher/1/head.bias": torch.zeros(1)}
    alone = []
    for task, params in zip(benchmark.tasks, learned, strict=False):
        memory = regularizer.remember(network, benchmark, task, params, memory)
        mask = output_mask(benchmark.seen(task.index), benchmark.outputs, CPU)
        alone.append(EMPIRICAL(network, params, task.train, mask, benchmark.seeds, task.index))
    names = list(learned[0])
    assert set(memory) == {"teacher/1/head.bias"} | {
        f"{kind}/3/{n}" for kind in ("importance", "anchor") for n in names
    }
    for name in names:
        assert torch.equal(memory[f"anchor/3/{name}"], learned[2][name])
        expected = gamma**2 * alone[0][name] + gamma * alone[1][name] + alone[2][name]
        torch.testing.assert_close(memory[f"importance/3/{name}"], expected)
    numbers = {"penalty_factor": torch.tensor(FACTORS), "penalty_p_norm": torch.tensor([2.0, 2.0])}
    penalty = regularizer.prepare(network, benchmark, benchmark.tasks[3], memory, numbers)
    params = random_params(network, 2, 9)
    value, slopes = value_and_slopes(penalty, params)
    decayed = [{n: sum(gamma ** (2 - i) * f[n].double() for i, f in enumerate(alone)) for n in names}]
    for m in range(2):
        theta = doubled(member_of(params, m))
        expected = FACTORS[m] * textbook_change(theta, [learned[2]], decayed, 2.0, m)
        assert value[m].item() == pytest.approx(expected.item(), rel=1e-5)
        for name, slope in zip(theta, torch.autograd.grad(expected, list(theta.values())), strict=True):
            torch.testing.assert_close(slopes[name][m].double(), slope, rtol=1e-4, atol=1e-6)


def test_online_and_separate_are_the_same_for_one_old_task():
    benchmark = tiny_benchmark(DOMAIN, (2, 2))
    network, learned = network_for(benchmark), random_params(network_for(benchmark), 2, 1)
    memories = [
        replace(PUBLISHED, online=online).remember(network, benchmark, benchmark.tasks[0], learned, {})
        for online in (None, 0.3)
    ]
    assert memories[0].keys() == memories[1].keys()
    assert all(torch.equal(memories[0][name], memories[1][name]) for name in memories[0])


@pytest.mark.parametrize("merged", [False, True])
def test_an_anchor_of_task_ten_is_not_one_of_task_one(merged):
    """Entries of memory are found by the number of their task, not by how it begins."""
    benchmark = tiny_benchmark(DOMAIN, (2,) * 12, members=2)
    network = network_for(benchmark)
    regularizer = replace(PUBLISHED, merged=merged)
    anchors = [random_params(network, 2, seed) for seed in range(1, 12)]
    ones = {name: torch.ones_like(value) for name, value in anchors[0].items()}
    memory = {f"anchor/{k}/{n}": v for k, params in enumerate(anchors, start=1) for n, v in params.items()}
    memory |= {f"importance/{k}/{n}": v for k in range(1, 12) for n, v in ones.items()}
    numbers = {"penalty_factor": torch.tensor(FACTORS), "penalty_p_norm": torch.tensor([2.0, 2.0])}
    penalty = regularizer.prepare(network, benchmark, benchmark.tasks[11], memory, numbers)
    params = random_params(network, 2, 99)
    value, _ = value_and_slopes(penalty, params)
    for m in range(2):
        expected = textbook_change(doubled(member_of(params, m)), anchors, [ones] * 11, 2.0, m)
        assert value[m].item() == pytest.approx(FACTORS[m] * expected.item(), rel=1e-5)
