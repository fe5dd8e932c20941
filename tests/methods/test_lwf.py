"""LearningWithoutForgetting against its formulas, written out in plain loops in double precision."""

import itertools
from dataclasses import replace
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from clsearch.config.sections import Scenario
from clsearch.methods.base import Penalty, recall
from clsearch.methods.lwf import LearningWithoutForgetting
from clsearch.methods.penalties.distillation import gather_batch, summarize_task, teacher_logits
from clsearch.networks.mlp import MLP, Network, Params, is_head, trainable_copy
from clsearch.networks.modules import cnn, module_network
from clsearch.tasks.benchmark import Benchmark, shrink
from clsearch.tasks.samples import Batch
from clsearch.training.learning_curve import curve_rows
from clsearch.training.loop import learn_sequence, learn_task, train_step, train_task
from clsearch.training.task_setup import plan_epochs, prepare_task
from clsearch.training.trial_setup import TrialSetup
from tests.helpers import (
    CPU,
    doubled,
    forward,
    member_of,
    network_for,
    pairs,
    random_params,
    small_run,
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
PUBLISHED = LearningWithoutForgetting(newest_only=False, train_head=True, distance="cross_entropy", squared=False)


def prepared_distillation(
    benchmark: Benchmark, distillation: LearningWithoutForgetting, teachers: list[Params]
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


DISTANCES = [("cross_entropy", False), ("cross_entropy", True), ("kl", False), ("kl", True), ("mse", False)]


@pytest.mark.parametrize(
    ("scenario", "newest_only", "train_head", "distance", "squared", "batch"),
    [
        (*voices, train_head, *distance, batch)
        for voices, distance, train_head, batch in pairs(VOICES, DISTANCES, [False, True], [BATCH, UNEQUAL])
    ],
)
def test_distillation_is_the_textbook_loop(scenario, newest_only, train_head, distance, squared, batch):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario])
    network = network_for(benchmark)
    # Larger than at initialisation, so that teachers and student disagree.
    teachers, (current,) = (
        [{n: 2 * v for n, v in random_params(network, 2, seed).items()} for seed in seeds] for seeds in ((1, 2), (3,))
    )
    distillation = LearningWithoutForgetting(newest_only, train_head, distance, squared)
    _, penalty = prepared_distillation(benchmark, distillation, teachers)
    inputs, _ = benchmark.tasks[2].train.take(batch.positions)
    leaves = trainable_copy(current)
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
    leaves = trainable_copy(random_params(network, 2, 3))
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
        terms = penalty(student_of(network, trainable_copy(random_params(network, 2, seed)), inputs), BATCH)
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
    leaves = trainable_copy(teacher)
    terms = penalty(student_of(network, leaves, inputs), BATCH)
    for slope in torch.autograd.grad(terms.penalty.sum(), list(leaves.values())):
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-6)


@pytest.mark.parametrize("distance", ["cross_entropy", "mse"])
def test_teachers_answer_for_samples_beyond_the_first_chunk(distance):
    benchmark = tiny_benchmark(TASK, (2, 2, 2), members=1, samples=4200, inputs=3)
    network = network_for(benchmark)
    chunk = network.eval_batch_size // 2  # of two teachers
    assert 2 * chunk < 4200
    # Larger than at initialisation, so that a teacher's answers differ from sample to sample.
    *teachers, current = ({n: 4 * v for n, v in random_params(network, 1, seed).items()} for seed in (1, 2, 3))
    _, penalty = prepared_distillation(benchmark, replace(PUBLISHED, distance=distance), teachers)
    values = []
    for position in (3, 75, chunk - 1, chunk, 2 * chunk, 4199):
        batch = Batch(torch.tensor([[position]]))
        inputs, _ = benchmark.tasks[2].train.take(batch.positions)
        values.append(penalty(student_of(network, trainable_copy(current), inputs), batch).penalty.item())
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


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["cross_entropy", "kl", "mse"])
@pytest.mark.parametrize(("scenario", "newest_only"), VOICES)
def test_each_member_of_another_size_hears_its_own_teachers(scenario, newest_only, distance):
    benchmark = tiny_benchmark(scenario, GROUPS[scenario], samples=(9, 5))
    distillation = replace(PUBLISHED, newest_only=newest_only, distance=distance)
    *teachers, current = ({n: 2 * v for n, v in random_params(network_for(benchmark), 2, s).items()} for s in (1, 2, 3))
    network, penalty = prepared_distillation(benchmark, distillation, teachers)
    (batch,) = benchmark.tasks[2].train.in_order()
    inputs, _ = benchmark.tasks[2].train.take(batch.positions)
    terms = penalty(student_of(network, trainable_copy(current), inputs), batch)
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
        leaves = trainable_copy(current)
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
        terms = penalty(student_of(network, trainable_copy(current), inputs), BATCH)
        values.append(terms.penalty)
        divergences.append(terms.logged["kl"])
    assert torch.equal(*values)
    assert (divergences[0] > 2 * divergences[1]).all()


def test_no_gradient_reaches_a_teacher():
    benchmark = tiny_benchmark(CLASS, GROUPS[CLASS])
    network = network_for(benchmark)
    *teachers, current = (trainable_copy(random_params(network, 2, seed)) for seed in (1, 2, 3))
    inputs, _ = benchmark.tasks[2].train.take(BATCH.positions)
    for distance in ("cross_entropy", "kl", "mse"):
        _, penalty = prepared_distillation(benchmark, replace(PUBLISHED, distance=distance), teachers)
        value = penalty(student_of(network, current, inputs), BATCH).penalty.sum()
        sources = [value for teacher in teachers for value in teacher.values()]
        slopes = torch.autograd.grad(value, sources, allow_unused=True)
        assert all(slope is None for slope in slopes)


# --- teachers asked once or at each step, one by one or together, about images as the student sees them ---


def module_of(benchmark: Benchmark) -> Network:
    return module_network(partial(cnn, hidden=(6,)), benchmark.shape, benchmark.outputs)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("of", [network_for, module_of], ids=["mlp", "cnn"])
def test_teachers_heard_together_say_what_each_says_alone(of, members):
    benchmark = replace(tiny_benchmark(TASK, (4, 3), members=members, inputs=48), shape=(3, 4, 4))
    network = of(benchmark)
    teachers = {k: network.initial([10 * k + m for m in range(members)], CPU) for k in (1, 2, 4)}
    inputs, _ = benchmark.tasks[0].train.take(torch.arange(9).expand(members, -1))
    said = teacher_logits(network, teachers)(inputs)
    assert list(said) == [1, 2, 4]
    for k, params in teachers.items():
        assert said[k].shape == (members, 9, 7)
        for m in range(members):
            own = {name: value[m : m + 1] for name, value in params.items()}
            alone = network.logits(own, network.features(own, inputs[m : m + 1]))
            torch.testing.assert_close(said[k][m], alone[0])
            if of is network_for:
                torch.testing.assert_close(said[k][m], forward(member_of(params, m), inputs[m]))
    assert not torch.allclose(said[1], said[2])


@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_a_digest_of_all_data_is_made_a_few_samples_at_a_time_and_holds_each_at_its_position(size):
    task = tiny_benchmark(TASK, (2, 2), samples=(9, 4)).tasks[0]
    taken = []

    def digest(inputs: Tensor) -> dict[str, Tensor]:
        taken.append(inputs.shape[1])
        return {"inputs": inputs, "sums": inputs.sum(-1)}

    found = summarize_task(task, digest, size)
    assert max(taken) <= size
    assert sum(taken) == 9
    positions = torch.tensor([[8, 0, 3], [3, 1, 0]])
    inputs, _ = task.train.take(positions)
    assert torch.equal(gather_batch(found["inputs"], Batch(positions)), inputs)
    assert torch.equal(gather_batch(found["sums"], Batch(positions)), inputs.sum(-1))


def few(algorithm: str, scenario: str, **settings: object) -> TrialSetup:
    """Three tasks of about thirty images, whose members differ in size."""
    counts = (2, 2, 2) if scenario == "domain" else (3, 2, 3)
    settings = {"scenario": scenario, "classes_per_task": counts, "class_order": "shuffled", "hidden": (6,)} | settings
    run = small_run(algorithm, (0, 5), batch_size=8, learning_rate=0.2, distillation_factor=2.0, **settings)
    return replace(run, benchmark=shrink(run.benchmark, 3, 30))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "teachers", "distance", "backbone"),
    pairs(["task", "domain", "class"], ["per_task", "last"], ["cross_entropy", "kl", "mse"], ["mlp", "cnn"]),
)
def test_teachers_asked_once_and_at_each_step_train_the_same_student(scenario, teachers, distance, backbone):
    once = few("lwf", scenario, teachers=teachers, distance=distance, backbone=backbone)
    assert not once.regularizers[0].augmented
    each = replace(once, regularizers=(replace(once.regularizers[0], augmented=True),))
    states = [run.initial_state() for run in (once, each)]
    for _ in once.benchmark.tasks:
        states = [learn_task(run, state) for run, state in zip((once, each), states, strict=True)]
        for name, value in states[0].params.items():
            torch.testing.assert_close(states[1].params[name], value, rtol=0, atol=1e-5)
        torch.testing.assert_close(states[1].curve, states[0].curve, rtol=1e-4, atol=1e-5)
    finetuned = learn_sequence(replace(once, regularizers=())).params
    for m in range(2):  # far more than is forgiven
        assert max((states[0].params[name][m] - v[m]).abs().max().item() for name, v in finetuned.items()) > 3e-4


def moved_by_hand(image: Tensor, move: Tensor) -> Tensor:
    """A digit [64] cropped from its padded self, then mirrored."""
    down, right, mirrored = move.tolist()
    padded = torch.nn.functional.pad(image.view(8, 8), (2, 2, 2, 2))
    crop = padded[2 + down : 10 + down, 2 + right : 10 + right]
    return (crop.flip(1) if mirrored else crop).flatten()


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["cross_entropy", "kl", "mse"])
@pytest.mark.parametrize(("scenario", "newest_only"), VOICES)
def test_teachers_answer_about_the_images_as_the_student_sees_them(scenario, newest_only, distance):
    settings = {"teachers": "last" if newest_only else "per_task", "distance": distance, "train_head": True}
    run = few("lwf", scenario, **settings, random_crop=2, horizontal_flip=True)
    assert run.regularizers[0].augmented
    state = learn_task(run, learn_task(run, run.initial_state()))
    setup = prepare_task(run, state, run.benchmark.tasks[2])
    step = next(plan_epochs(run, setup))[0]
    # Not the newest teacher itself, so that what is compared is not 0.
    student = {name: 3 * value for name, value in state.params.items()}
    log = train_step(run, setup, trainable_copy(student), state.moments, step.batch)
    (logged,) = curve_rows(run.columns, [log])
    inputs, _ = run.benchmark.tasks[2].train.take(step.batch.positions)
    seen = [run.benchmark.active_outputs(k, k) for k in (1, 2)]
    voices = [(2 if newest_only else k, classes) for k, classes in zip((1, 2), seen, strict=True)]
    if scenario is CLASS and newest_only:
        voices = [(2, seen[1])]
    for m in range(2):
        teachers = [
            doubled(member_of(recall(state.memory, f"teacher/{k}/"), m)) if not newest_only or k == 2 else {}
            for k in (1, 2)
        ]
        found = []
        for images in (inputs[m], [moved_by_hand(*pair) for pair in zip(inputs[m], step.batch.crops[m], strict=True)]):
            own = torch.stack(list(images)).double()
            found.append(textbook_distillation(doubled(member_of(student, m)), teachers, own, voices, 2.0, True))
        plain, augmented = found
        penalty, kl = (logged[m, run.columns.index(name)].item() for name in ("penalty", "kl"))
        assert penalty == pytest.approx(2 * augmented[distance].item(), rel=1e-4)
        assert kl == pytest.approx(augmented["kl"].item(), rel=1e-4)
        assert penalty != pytest.approx(2 * plain[distance].item(), rel=2e-4)


class Counting(MLP):
    """Says how many samples its teachers were asked about: those of a call without gradients."""

    asked: ClassVar[list[int]] = []

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            self.asked.append(inputs.shape[1])
        return super().features(params, inputs)


@pytest.mark.parametrize(("iterations", "asked"), [(2, [8, 8]), (3, [8, 8, 8]), (20, None)])
def test_steps_that_do_not_see_the_whole_task_ask_about_what_they_see(iterations, asked):
    run = few("lwf", "task", iterations=iterations, epochs=None)
    size = max(run.benchmark.tasks[1].train.sizes)
    assert 3 * 8 < size < 20 * 8
    state = learn_task(run, run.initial_state())
    Counting.asked.clear()
    counted = replace(run, network=Counting(**vars(run.network)))
    trained = train_task(counted, state, run.benchmark.tasks[1])
    assert Counting.asked == (asked or [size])
    cached = replace(run.regularizers[0], visits=None)
    expected = train_task(replace(run, regularizers=(cached,)), state, run.benchmark.tasks[1])
    for name, value in expected.params.items():
        torch.testing.assert_close(trained.params[name], value, rtol=0, atol=1e-5)
