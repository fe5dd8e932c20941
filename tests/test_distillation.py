"""Distillation against its formulas, written out in plain loops in double precision."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from clsearch.core.benchmarks import Benchmark
from clsearch.core.distillation import Distillation
from clsearch.core.networks import MLP, Params, is_head
from clsearch.core.parts import Scenario
from clsearch.core.regularizers import Penalty
from clsearch.core.samples import Batch
from tests.helpers import (
    doubled,
    forward,
    leaves_of,
    member_of,
    network_for,
    random_params,
    student_of,
    tiny_benchmark,
)

TASK, DOMAIN, CLASS = Scenario.TASK, Scenario.DOMAIN, Scenario.CLASS

# Three tasks, the third being learned. Ten classes in unequal groups; domain-incremental has three shared ones.
GROUPS = {TASK: (4, 3, 3), DOMAIN: (3, 3, 3), CLASS: (4, 3, 3)}
FIRST, SECOND, BOTH, SHARED = (0, 1, 2, 3), (4, 5, 6), (0, 1, 2, 3, 4, 5, 6), (0, 1, 2)
VOICES = {
    # Scenario, newest teacher only: for each term of the sum, which teacher speaks for which classes.
    (TASK, False): [(1, FIRST), (2, SECOND)],
    (TASK, True): [(2, FIRST), (2, SECOND)],
    (DOMAIN, False): [(1, SHARED), (2, SHARED)],
    (DOMAIN, True): [(2, SHARED), (2, SHARED)],
    (CLASS, False): [(1, FIRST), (2, BOTH)],
    (CLASS, True): [(2, BOTH)],
}
FACTORS, TEMPERATURES = (0.7, 1.9), (1.5, 3.0)
BATCH = Batch(torch.tensor([[0, 5, 2, 8], [7, 7, 1, 3]]))
UNEQUAL = Batch(torch.tensor([[0, 5, 2, 8], [1, 3, 7, 0]]), torch.tensor([[True] * 4, [True] * 3 + [False]]))
PUBLISHED = Distillation(newest_only=False, train_head=True, distance="cross_entropy", squared=False)


def prepared_distillation(
    benchmark: Benchmark, distillation: Distillation, teachers: list[Params]
) -> tuple[MLP, Penalty]:
    """The penalty of the task after the teachers', its members differing in factor and temperature."""
    network, members = network_for(benchmark), len(benchmark.seeds)
    memory: dict[str, Tensor] = {}
    for task, params in zip(benchmark.tasks, teachers, strict=False):
        memory = distillation.remember(network, benchmark, task, params, memory)
    numbers = {
        "distillation_factor": torch.tensor(FACTORS[:members]),
        "distillation_temperature": torch.tensor(TEMPERATURES[:members]),
    }
    penalty = distillation.prepare(network, benchmark, benchmark.tasks[len(teachers)], memory, numbers)
    assert penalty is not None
    return network, penalty


def softmax(logits: Tensor, classes: tuple[int, ...], temperature: float) -> list[Tensor]:
    powers = [torch.exp(logits[c] / temperature) for c in classes]
    return [power / sum(powers) for power in powers]


def textbook_distillation(
    student: Params,
    teachers: list[Params],
    inputs: Tensor,
    voices: list[tuple[int, tuple[int, ...]]],
    temperature: float,
    train_head: bool,
) -> dict[str, Tensor]:
    """One member: Σ_k of each distance's mean over the batch."""
    if not train_head:
        student = {name: value.detach() if is_head(name) else value for name, value in student.items()}
    zero = torch.zeros((), dtype=torch.float64)
    total = {"cross_entropy": zero, "kl": zero, "mse": zero}
    for (teacher, classes), x in itertools.product(voices, inputs):
        with torch.no_grad():
            u = forward(teachers[teacher - 1], x[None])[0]
        z = forward(student, x[None])[0]
        q, p = softmax(u, classes, temperature), softmax(z, classes, temperature)
        for c, q_c, p_c in zip(classes, q, p, strict=True):
            total["cross_entropy"] = total["cross_entropy"] - q_c * torch.log(p_c) / len(inputs)
            total["kl"] = total["kl"] + q_c * torch.log(q_c / p_c) / len(inputs)
            total["mse"] = total["mse"] + (z[c] - u[c]) ** 2 / len(classes) / len(inputs)
    return total


@pytest.mark.parametrize("batch", [BATCH, UNEQUAL])
@pytest.mark.parametrize(
    ("distance", "squared"),
    [("cross_entropy", False), ("cross_entropy", True), ("kl", False), ("kl", True), ("mse", False)],
)
@pytest.mark.parametrize("train_head", [False, True])
@pytest.mark.parametrize(("scenario", "newest_only"), VOICES)
def test_distillation_is_the_textbook_loop(scenario, newest_only, train_head, distance, squared, batch):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario])
    network = network_for(benchmark)
    # Larger than at initialisation, so that teachers and student disagree.
    teachers, (current,) = (
        [{n: 2 * v for n, v in random_params(network, 2, seed).items()} for seed in seeds] for seeds in ((1, 2), (3,))
    )
    distillation = Distillation(newest_only, train_head, distance, squared)
    _, penalty = prepared_distillation(benchmark, distillation, teachers)
    inputs, _ = benchmark.tasks[2].train.take(batch.positions)
    leaves = leaves_of(current)
    terms = penalty(student_of(network, leaves, inputs), batch)
    gradients = torch.autograd.grad(terms.penalty.sum(), list(leaves.values()), materialize_grads=True)

    for m in range(2):
        student = doubled(member_of(current, m))
        own = inputs[m] if batch.valid is None else inputs[m][batch.valid[m]]
        textbook = textbook_distillation(
            student,
            [doubled(member_of(teacher, m)) for teacher in teachers],
            own.double(),
            VOICES[scenario, newest_only],
            TEMPERATURES[m],
            train_head,
        )
        expected = FACTORS[m] * textbook[distance] * (TEMPERATURES[m] ** 2 if squared else 1)
        assert terms.penalty[m].item() == pytest.approx(expected.item(), rel=1e-5)
        assert terms.logged["kl"][m].item() == pytest.approx(textbook["kl"].item(), rel=1e-3, abs=1e-6)
        slopes = torch.autograd.grad(expected, list(student.values()), materialize_grads=True)
        for name, ours, slope in zip(student, gradients, slopes, strict=True):
            torch.testing.assert_close(ours[m].double(), slope, rtol=1e-4, atol=1e-6)
            # A head that is not trained gets nothing at all; the rest gets something.
            assert bool((ours[m] == 0).all()) == (is_head(name) and not train_head)


@pytest.mark.parametrize(("scenario", "newest_only"), VOICES)
def test_classes_that_no_teacher_speaks_for_are_not_distilled(scenario, newest_only):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario])
    network = network_for(benchmark)
    distillation = replace(PUBLISHED, newest_only=newest_only)
    teachers = [random_params(network, 2, seed) for seed in (1, 2)]
    _, penalty = prepared_distillation(benchmark, distillation, teachers)
    inputs, _ = benchmark.tasks[2].train.take(BATCH.positions)
    leaves = leaves_of(random_params(network, 2, 3))
    terms = penalty(student_of(network, leaves, inputs), BATCH)
    (slope,) = torch.autograd.grad(terms.penalty.sum(), [leaves["head.bias"]])
    spoken = {c for _, classes in VOICES[scenario, newest_only] for c in classes}
    assert {c for c in range(benchmark.outputs) if slope[..., c].any()} == spoken


@pytest.mark.parametrize(("scenario", "newest_only"), VOICES)
def test_the_logged_divergence_is_never_negative_and_zero_for_a_student_that_equals_its_teachers(scenario, newest_only):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario])
    network = network_for(benchmark)
    distillation = replace(PUBLISHED, newest_only=newest_only)
    teacher = random_params(network, 2, 1)
    _, penalty = prepared_distillation(benchmark, distillation, [teacher, teacher])
    inputs, _ = benchmark.tasks[2].train.take(BATCH.positions)
    for seed in range(1, 20):
        terms = penalty(student_of(network, leaves_of(random_params(network, 2, seed)), inputs), BATCH)
        assert not terms.logged["kl"].requires_grad
        if seed == 1:
            torch.testing.assert_close(terms.logged["kl"], torch.zeros(2), rtol=0, atol=1e-6)
        else:
            assert (terms.logged["kl"] > 1e-4).all()


@pytest.mark.parametrize(("scenario", "newest_only"), VOICES)
def test_distillation_has_no_slope_where_the_student_equals_its_teachers(scenario, newest_only):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario])
    network = network_for(benchmark)
    distillation = replace(PUBLISHED, newest_only=newest_only)
    teacher = random_params(network, 2, 1)
    _, penalty = prepared_distillation(benchmark, distillation, [teacher, teacher])
    inputs, _ = benchmark.tasks[2].train.take(BATCH.positions)
    leaves = leaves_of(teacher)
    terms = penalty(student_of(network, leaves, inputs), BATCH)
    for slope in torch.autograd.grad(terms.penalty.sum(), list(leaves.values())):
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-6)


@pytest.mark.parametrize("distance", ["cross_entropy", "mse"])
def test_teachers_answer_for_samples_beyond_the_first_chunk(distance):
    benchmark = tiny_benchmark(TASK, (2, 2, 2), members=1, samples=1100, inputs=3)
    network = network_for(benchmark)
    assert len(benchmark.tasks[2].train.in_order()) == 2
    # Larger than at initialisation, so that a teacher's answers differ from sample to sample.
    *teachers, current = ({n: 4 * v for n, v in random_params(network, 1, seed).items()} for seed in (1, 2, 3))
    _, penalty = prepared_distillation(benchmark, replace(PUBLISHED, distance=distance), teachers)
    values = []
    for position in (3, 75, 1023, 1024, 1099):
        batch = Batch(torch.tensor([[position]]))
        inputs, _ = benchmark.tasks[2].train.take(batch.positions)
        values.append(penalty(student_of(network, leaves_of(current), inputs), batch).penalty.item())
        textbook = textbook_distillation(
            doubled(member_of(current, 0)),
            [doubled(member_of(teacher, 0)) for teacher in teachers],
            inputs[0].double(),
            [(1, (0, 1)), (2, (2, 3))],
            TEMPERATURES[0],
            train_head=True,
        )
        assert values[-1] == pytest.approx(FACTORS[0] * textbook[distance].item(), rel=1e-5)
    assert len({round(value, 3) for value in values}) == len(values)


@pytest.mark.parametrize("newest_only", [False, True])
def test_memory_holds_every_teacher_or_the_newest_with_its_own_copy_of_the_head(newest_only):
    benchmark = tiny_benchmark(DOMAIN, (3, 3, 3))
    network = network_for(benchmark)
    distillation = replace(PUBLISHED, newest_only=newest_only)
    teachers = [random_params(network, 2, seed) for seed in (1, 2)]
    memory: dict[str, Tensor] = {"importance/1/head.bias": torch.zeros(2, 1, 3)}
    for task, params in zip(benchmark.tasks, teachers, strict=False):
        memory = distillation.remember(network, benchmark, task, params, memory)
    kept = [2] if newest_only else [1, 2]
    assert set(memory) == {"importance/1/head.bias"} | {f"teacher/{k}/{n}" for k in kept for n in teachers[0]}
    for k in kept:
        assert all(torch.equal(memory[f"teacher/{k}/{n}"], value) for n, value in teachers[k - 1].items())


@pytest.mark.parametrize("distance", ["cross_entropy", "kl", "mse"])
@pytest.mark.parametrize(("scenario", "newest_only"), VOICES)
def test_each_member_of_another_size_hears_its_own_teachers(scenario, newest_only, distance):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario], samples=(9, 5))
    distillation = replace(PUBLISHED, newest_only=newest_only, distance=distance)
    *teachers, current = ({n: 2 * v for n, v in random_params(network_for(benchmark), 2, s).items()} for s in (1, 2, 3))
    network, penalty = prepared_distillation(benchmark, distillation, teachers)
    (batch,) = benchmark.tasks[2].train.in_order()
    inputs, _ = benchmark.tasks[2].train.take(batch.positions)
    terms = penalty(student_of(network, leaves_of(current), inputs), batch)
    for m, n in enumerate((9, 5)):
        textbook = textbook_distillation(
            doubled(member_of(current, m)),
            [doubled(member_of(teacher, m)) for teacher in teachers],
            inputs[m, :n].double(),
            VOICES[scenario, newest_only],
            TEMPERATURES[m],
            train_head=True,
        )
        assert terms.penalty[m].item() == pytest.approx(FACTORS[m] * textbook[distance].item(), rel=1e-5)
        assert terms.logged["kl"][m].item() == pytest.approx(textbook["kl"].item(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("scenario", "newest_only"), VOICES)
def test_the_divergence_has_the_gradient_of_the_cross_entropy_and_another_value(scenario, newest_only):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario])
    *teachers, current = (random_params(network_for(benchmark), 2, seed) for seed in (1, 2, 3))
    inputs, _ = benchmark.tasks[2].train.take(BATCH.positions)
    values, slopes = [], []
    for distance in ("cross_entropy", "kl"):
        distillation = replace(PUBLISHED, newest_only=newest_only, distance=distance)
        network, penalty = prepared_distillation(benchmark, distillation, teachers)
        leaves = leaves_of(current)
        value = penalty(student_of(network, leaves, inputs), BATCH).penalty
        values.append(value.detach())
        slopes.append(torch.autograd.grad(value.sum(), list(leaves.values())))
    assert (values[0] > 1.1 * values[1]).all()
    for first, second in zip(*slopes, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_squared_errors_look_at_no_temperature():
    benchmark = tiny_benchmark(CLASS, GROUPS[CLASS])
    network = network_for(benchmark)
    *teachers, current = (random_params(network, 2, seed) for seed in (1, 2, 3))
    inputs, _ = benchmark.tasks[2].train.take(BATCH.positions)
    distillation = replace(PUBLISHED, distance="mse")
    memory = {}
    for task, params in zip(benchmark.tasks, teachers, strict=False):
        memory = distillation.remember(network, benchmark, task, params, memory)
    values, divergences = [], []
    for temperature in (0.5, 8.0):
        numbers = {"distillation_factor": torch.ones(2), "distillation_temperature": torch.full((2,), temperature)}
        penalty = distillation.prepare(network, benchmark, benchmark.tasks[2], memory, numbers)
        terms = penalty(student_of(network, leaves_of(current), inputs), BATCH)
        values.append(terms.penalty)
        divergences.append(terms.logged["kl"])
    assert torch.equal(*values)
    assert (divergences[0] > 2 * divergences[1]).all()


def test_no_gradient_reaches_a_teacher():
    benchmark = tiny_benchmark(CLASS, GROUPS[CLASS])
    network = network_for(benchmark)
    *teachers, current = (leaves_of(random_params(network, 2, seed)) for seed in (1, 2, 3))
    inputs, _ = benchmark.tasks[2].train.take(BATCH.positions)
    for distance in ("cross_entropy", "kl", "mse"):
        _, penalty = prepared_distillation(benchmark, replace(PUBLISHED, distance=distance), teachers)
        value = penalty(student_of(network, current, inputs), BATCH).penalty.sum()
        sources = [value for teacher in teachers for value in teacher.values()]
        slopes = torch.autograd.grad(value, sources, allow_unused=True)
        assert all(slope is None for slope in slopes)
