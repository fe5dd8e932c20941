"""Distillation and parameter change against their formulas, written out in plain loops in double precision."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from clsearch.core.benchmarks import Benchmark
from clsearch.core.config import Scenario
from clsearch.core.importance import empirical_fisher
from clsearch.core.networks import MLP, Params, allowed_mask, is_head
from clsearch.core.regularizers import Distillation, ParameterChange, Penalty, Student
from tests.helpers import forward, member_of, network_for, random_params, tiny_benchmark

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
POSITIONS = torch.tensor([[0, 5, 2, 8], [7, 7, 1, 3]])


def leaves_of(params: Params) -> Params:
    return {name: value.detach().clone().requires_grad_() for name, value in params.items()}


def doubled(params: Params) -> Params:
    return {name: value.detach().double().requires_grad_() for name, value in params.items()}


def student_of(network: MLP, leaves: Params, inputs: Tensor) -> Student:
    features = network.features(leaves, inputs)
    return Student(leaves, features, network.logits(leaves, features))


def prepared_distillation(
    benchmark: Benchmark, distillation: Distillation, teachers: list[Params], positions: Tensor
) -> tuple[MLP, Penalty]:
    """The penalty of the task after the teachers', its members differing in factor and temperature."""
    network, members = network_for(benchmark), len(positions)
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
) -> tuple[Tensor, Tensor]:
    """One member: Σ_k mean over the batch of -Σ_c q_c log p_c, and the same of the Kullback-Leibler divergence."""
    if not train_head:
        student = {name: value.detach() if is_head(name) else value for name, value in student.items()}
    distance = divergence = torch.zeros((), dtype=torch.float64)
    for (teacher, classes), x in itertools.product(voices, inputs):
        with torch.no_grad():
            q = softmax(forward(teachers[teacher - 1], x[None])[0], classes, temperature)
        p = softmax(forward(student, x[None])[0], classes, temperature)
        for q_c, p_c in zip(q, p, strict=True):
            distance = distance - q_c * torch.log(p_c) / len(inputs)
            divergence = divergence + q_c * torch.log(q_c / p_c) / len(inputs)
    return distance, divergence


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("train_head", [False, True])
@pytest.mark.parametrize(("scenario", "newest_only"), VOICES)
def test_distillation_is_the_textbook_loop(scenario, newest_only, train_head, squared):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario])
    network = network_for(benchmark)
    # Larger than at initialisation, so that teachers and student disagree.
    teachers, (current,) = (
        [{n: 2 * v for n, v in random_params(network, 2, seed).items()} for seed in seeds] for seeds in ((1, 2), (3,))
    )
    distillation = Distillation(newest_only=newest_only, train_head=train_head, squared=squared)
    _, penalty = prepared_distillation(benchmark, distillation, teachers, POSITIONS)
    inputs, _ = benchmark.tasks[2].train.batch(POSITIONS)
    leaves = leaves_of(current)
    terms = penalty(student_of(network, leaves, inputs), POSITIONS)
    gradients = torch.autograd.grad(terms.penalty.sum(), list(leaves.values()), materialize_grads=True)

    for m in range(2):
        student = doubled(member_of(current, m))
        distance, divergence = textbook_distillation(
            student,
            [doubled(member_of(teacher, m)) for teacher in teachers],
            inputs[m].double(),
            VOICES[scenario, newest_only],
            TEMPERATURES[m],
            train_head,
        )
        expected = FACTORS[m] * distance * (TEMPERATURES[m] ** 2 if squared else 1)
        assert terms.penalty[m].item() == pytest.approx(expected.item(), rel=1e-5)
        assert terms.logged["kl"][m].item() == pytest.approx(divergence.item(), rel=1e-3, abs=1e-6)
        slopes = torch.autograd.grad(expected, list(student.values()), materialize_grads=True)
        for name, ours, slope in zip(student, gradients, slopes, strict=True):
            torch.testing.assert_close(ours[m].double(), slope, rtol=1e-4, atol=1e-6)
            # A head that is not trained gets nothing at all; the rest gets something.
            assert bool((ours[m] == 0).all()) == (is_head(name) and not train_head)


@pytest.mark.parametrize(("scenario", "newest_only"), VOICES)
def test_classes_that_no_teacher_speaks_for_are_not_distilled(scenario, newest_only):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario])
    network = network_for(benchmark)
    distillation = Distillation(newest_only=newest_only, train_head=True, squared=False)
    teachers = [random_params(network, 2, seed) for seed in (1, 2)]
    _, penalty = prepared_distillation(benchmark, distillation, teachers, POSITIONS)
    inputs, _ = benchmark.tasks[2].train.batch(POSITIONS)
    leaves = leaves_of(random_params(network, 2, 3))
    terms = penalty(student_of(network, leaves, inputs), POSITIONS)
    (slope,) = torch.autograd.grad(terms.penalty.sum(), [leaves["head.bias"]])
    spoken = {c for _, classes in VOICES[scenario, newest_only] for c in classes}
    assert {c for c in range(benchmark.outputs) if slope[..., c].any()} == spoken


@pytest.mark.parametrize(("scenario", "newest_only"), VOICES)
def test_the_logged_divergence_is_never_negative_and_zero_for_a_student_that_equals_its_teachers(scenario, newest_only):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario])
    network = network_for(benchmark)
    distillation = Distillation(newest_only=newest_only, train_head=True, squared=False)
    teacher = random_params(network, 2, 1)
    _, penalty = prepared_distillation(benchmark, distillation, [teacher, teacher], POSITIONS)
    inputs, _ = benchmark.tasks[2].train.batch(POSITIONS)
    for seed in range(1, 20):
        terms = penalty(student_of(network, leaves_of(random_params(network, 2, seed)), inputs), POSITIONS)
        assert not terms.logged["kl"].requires_grad
        if seed == 1:
            torch.testing.assert_close(terms.logged["kl"], torch.zeros(2), rtol=0, atol=1e-6)
        else:
            assert (terms.logged["kl"] > 1e-4).all()


@pytest.mark.parametrize(("scenario", "newest_only"), VOICES)
def test_distillation_has_no_slope_where_the_student_equals_its_teachers(scenario, newest_only):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario])
    network = network_for(benchmark)
    distillation = Distillation(newest_only=newest_only, train_head=True, squared=False)
    teacher = random_params(network, 2, 1)
    _, penalty = prepared_distillation(benchmark, distillation, [teacher, teacher], POSITIONS)
    inputs, _ = benchmark.tasks[2].train.batch(POSITIONS)
    leaves = leaves_of(teacher)
    terms = penalty(student_of(network, leaves, inputs), POSITIONS)
    for slope in torch.autograd.grad(terms.penalty.sum(), list(leaves.values())):
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-6)


def test_teachers_answer_for_samples_beyond_the_first_chunk():
    benchmark = tiny_benchmark(TASK, (2, 2, 2), members=1, samples=1100, inputs=3)
    network = network_for(benchmark)
    assert len(benchmark.tasks[2].train.chunks()) == 2
    distillation = Distillation(newest_only=False, train_head=True, squared=False)
    # Larger than at initialisation, so that a teacher's answers differ from sample to sample.
    *teachers, current = ({n: 4 * v for n, v in random_params(network, 1, seed).items()} for seed in (1, 2, 3))
    values = []
    for position in (3, 75, 1023, 1024, 1099):
        positions = torch.tensor([[position]])
        _, penalty = prepared_distillation(benchmark, distillation, teachers, positions)
        inputs, _ = benchmark.tasks[2].train.batch(positions)
        values.append(penalty(student_of(network, leaves_of(current), inputs), positions).penalty.item())
        distance, _ = textbook_distillation(
            doubled(member_of(current, 0)),
            [doubled(member_of(teacher, 0)) for teacher in teachers],
            inputs[0].double(),
            [(1, (0, 1)), (2, (2, 3))],
            TEMPERATURES[0],
            train_head=True,
        )
        assert values[-1] == pytest.approx(FACTORS[0] * distance.item(), rel=1e-5)
    assert len({round(value, 3) for value in values}) == len(values)


@pytest.mark.parametrize("newest_only", [False, True])
def test_memory_holds_every_teacher_or_the_newest_with_its_own_copy_of_the_head(newest_only):
    benchmark = tiny_benchmark(DOMAIN, (3, 3, 3))
    network = network_for(benchmark)
    distillation = Distillation(newest_only=newest_only, train_head=True, squared=False)
    teachers = [random_params(network, 2, seed) for seed in (1, 2)]
    memory: dict[str, Tensor] = {"importance/1/head.bias": torch.zeros(2, 1, 3)}
    for task, params in zip(benchmark.tasks, teachers, strict=False):
        memory = distillation.remember(network, benchmark, task, params, memory)
    kept = [2] if newest_only else [1, 2]
    assert set(memory) == {"importance/1/head.bias"} | {f"teacher/{k}/{n}" for k in kept for n in teachers[0]}
    for k in kept:
        assert all(torch.equal(memory[f"teacher/{k}/{n}"], value) for n, value in teachers[k - 1].items())


@pytest.mark.parametrize(
    "regularizer",
    [
        Distillation(newest_only=False, train_head=True, squared=False),
        ParameterChange(merged=True, average=False),
        ParameterChange(merged=False, average=False),
    ],
)
def test_the_first_task_has_nothing_to_hold_on_to(regularizer):
    benchmark = tiny_benchmark(TASK, (2, 2))
    assert regularizer.prepare(network_for(benchmark), benchmark, benchmark.tasks[0], {}, {}) is None


# --- parameter change ---


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
    regularizer = ParameterChange(merged=merged, average=average)
    penalty = regularizer.prepare(network_for(benchmark), benchmark, benchmark.tasks[t - 1], memory, numbers)
    assert penalty is not None
    return penalty


def value_and_slopes(penalty: Penalty, params: Params) -> tuple[Tensor, Params]:
    """The penalty looks at parameters only, so the batch may be empty of meaning."""
    leaves = leaves_of(params)
    nothing = torch.empty(0)
    value = penalty(Student(leaves, nothing, nothing), nothing).penalty
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


@pytest.mark.parametrize("p", [(1.0, 1.2), (2.0, 3.0), (1.5, 1.0)])
def test_at_the_anchor_penalty_and_slope_are_exactly_zero(p):
    benchmark = tiny_benchmark(DOMAIN, (2, 2))
    memory, (anchor,), _ = consolidated(network_for(benchmark), 1)
    value, slopes = value_and_slopes(prepared_change(benchmark, memory, 2, p), anchor)
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
    regularizer = ParameterChange(merged=merged, average=False)
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
    regularizer = ParameterChange(merged=True, average=False)
    learned = [random_params(network, 2, seed) for seed in (1, 2)]
    memory: dict[str, Tensor] = {}
    for task, params in zip(benchmark.tasks, learned, strict=False):
        memory = regularizer.remember(network, benchmark, task, params, memory)
    names = [n for n in learned[0] if scenario is not TASK or not is_head(n)]
    assert set(memory) == {f"{kind}/{k}/{n}" for kind in ("importance", "anchor") for k in (1, 2) for n in names}
    answers = {TASK: (FIRST, SECOND), DOMAIN: (SHARED, SHARED), CLASS: (FIRST, BOTH)}[scenario]
    for k, params in enumerate(learned, start=1):
        mask = allowed_mask(answers[k - 1], benchmark.outputs, torch.device("cpu"))
        fisher = empirical_fisher(network, params, benchmark.tasks[k - 1].train, mask)
        for name in names:
            assert torch.equal(memory[f"anchor/{k}/{name}"], params[name])
            assert torch.equal(memory[f"importance/{k}/{name}"], fisher[name])
