"""docs/other_libraries.md, row by row: each library's penalty, written from its formula, is ours at the converted
factor.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clsearch.common.seeding import derive_generator
from clsearch.config.sections import Scenario
from clsearch.methods.base import Student
from clsearch.methods.ewc import ElasticWeightConsolidation
from clsearch.methods.lwf import LearningWithoutForgetting
from clsearch.methods.penalties.fisher import Fisher, count_backbone
from clsearch.methods.registry import preset_settings
from clsearch.networks.mlp import Params, is_head
from clsearch.tasks.benchmark import Benchmark
from clsearch.tasks.samples import Batch
from tests.helpers import forward, member_of, network_for, random_params, student_of, tiny_benchmark

LAMBDA, BATCH, N = 3.7, 4, 12


def setting(scenario: Scenario, tasks: int = 3) -> tuple[Benchmark, list[Params], Params]:
    """Three tasks of two classes for one member; models after the first two, and the model in training.

    In task-incremental learning old heads do not move, so anchors and model share them.
    """
    benchmark = tiny_benchmark(scenario, (2,) * tasks, members=1, samples=N)
    network = network_for(benchmark)
    learned = [random_params(network, 1, seed) for seed in range(1, tasks)]
    current = random_params(network, 1, 9)
    if scenario is Scenario.TASK:
        head = {name: value for name, value in current.items() if is_head(name)}
        learned = [params | head for params in learned]
    return benchmark, learned, current


def gradients(params: Params, inputs: Tensor, labels: Tensor, classes: tuple[int, ...]) -> Params:
    """Of the mean cross-entropy over a batch, one member."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    first = min(classes)
    loss = cross_entropy(forward(leaves, inputs)[:, list(classes)], labels - first)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True), strict=True))


def batches(benchmark: Benchmark, k: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """Task k's training data in the order in which clsearch measures the Fisher information of the first member."""
    order = torch.randperm(N, generator=derive_generator(benchmark.seeds[0], k, 0, "fisher samples"))
    inputs, labels = benchmark.tasks[k - 1].train.take(order[None])
    return list(zip(inputs[0].split(size), labels[0].split(size), strict=True))


def squared_gradients(benchmark: Benchmark, k: int, params: Params, size: int) -> list[tuple[int, Params]]:
    """Of each batch of task k: its size, and its squared gradient."""
    classes = benchmark.tasks[k - 1].classes
    return [
        (len(x), {name: g**2 for name, g in gradients(params, x, y, classes).items()})
        for x, y in batches(benchmark, k, size)
    ]


def total(rows: list[tuple[float, Params]]) -> Params:
    return {name: torch.stack([weight * row[name] for weight, row in rows]).sum(0) for name in rows[0][1]}


def distance(fisher: Params, theta: Params, anchor: Params, backbone_only: bool = False) -> Tensor:
    """Σ F Δ²."""
    names = [name for name in theta if not (backbone_only and is_head(name))]
    return sum(((fisher[n] * (theta[n] - anchor[n]) ** 2).sum() for n in names), torch.zeros(()))


def ours(
    benchmark: Benchmark,
    learned: list[Params],
    current: Params,
    factor: float,
    kind: str,
    size: int = BATCH,
    scale: str = "none",
    average: bool = False,
    gamma: float | None = None,
) -> float:
    """clsearch's EWC penalty while the last task is learned."""
    network = network_for(benchmark)
    regularizer = ElasticWeightConsolidation(True, average, Fisher(kind, None, size), scale, gamma)
    memory: dict[str, Tensor] = {}
    for task, params in zip(benchmark.tasks, learned, strict=False):
        memory = regularizer.remember(network, benchmark, task, params, memory)
    numbers = {"penalty_factor": torch.tensor([factor]), "penalty_p_norm": torch.tensor([2.0])}
    penalty = regularizer.prepare(network, benchmark, benchmark.tasks[-1], memory, numbers)
    assert penalty is not None
    nothing = torch.empty(0)
    return penalty(Student(current, nothing, nothing, nothing), Batch(nothing)).penalty.item()


def exact_fisher(benchmark: Benchmark, k: int, params: Params) -> Params:
    """Σ_n Σ_c p(c|x_n) (∂ log p(c|x_n))², not yet divided."""
    classes, rows = benchmark.tasks[k - 1].classes, []
    for x, _ in batches(benchmark, k, 1):
        p = forward(params, x)[0, list(classes)].softmax(0)
        for i, c in enumerate(classes):
            rows.append((p[i], {n: g**2 for n, g in gradients(params, x, torch.tensor([c]), classes).items()}))
    return total(rows)


@pytest.mark.parametrize("scenario", [Scenario.TASK, Scenario.DOMAIN])
def test_kirkpatrick(scenario):
    benchmark, learned, current = setting(scenario)
    theta = member_of(current, 0)
    theirs = 0.0
    for k, params in enumerate(learned, start=1):
        anchor = member_of(params, 0)
        fisher = total([(1 / N, row) for _, row in squared_gradients(benchmark, k, anchor, 1)])
        theirs += LAMBDA / 2 * distance(fisher, theta, anchor).item()
    assert theirs == pytest.approx(ours(benchmark, learned, current, LAMBDA / 2, "empirical"), rel=1e-4)


def test_clarena_1_1():
    benchmark, learned, current = setting(Scenario.TASK)
    theta, epochs = member_of(current, 0), 5
    theirs = 0.0
    for k, params in enumerate(learned, start=1):
        anchor = member_of(params, 0)
        seen = epochs * N  # samples that its training steps counted
        fisher = total([(size / seen, row) for size, row in squared_gradients(benchmark, k, anchor, BATCH)])
        theirs += 0.5 * LAMBDA * distance(fisher, theta, anchor, backbone_only=True).item()
    assert theirs == pytest.approx(ours(benchmark, learned, current, LAMBDA / (2 * epochs), "batch"), rel=1e-4)


def test_clarena_1_0_with_an_elementwise_square_in_place_of_its_norm():
    benchmark, learned, current = setting(Scenario.TASK)
    theta, t = member_of(current, 0), len(learned) + 1
    parameters = sum(value.numel() for name, value in theta.items() if not is_head(name))
    assert parameters == count_backbone(current)
    theirs = 0.0
    for k, params in enumerate(learned, start=1):
        anchor = member_of(params, 0)
        rows = squared_gradients(benchmark, k, anchor, BATCH)
        fisher = total([(size / (N * parameters), row) for size, row in rows])
        theirs += LAMBDA * distance(fisher, theta, anchor, backbone_only=True).item() / t
    preset = preset_settings("ewc", "clarena-first")
    found = ours(
        benchmark,
        learned,
        current,
        LAMBDA,
        preset["fisher"],
        scale=preset["fisher_scale"],
        average=preset["average_over_tasks"],
    )
    assert theirs == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("scenario", [Scenario.TASK, Scenario.DOMAIN])
@pytest.mark.parametrize(("size", "kind"), [(BATCH, "batch"), (1, "batch"), (1, "empirical")])
def test_avalanche_separate(scenario, size, kind):
    benchmark, learned, current = setting(scenario)
    theta = member_of(current, 0)
    theirs = 0.0
    for k, params in enumerate(learned, start=1):
        anchor = member_of(params, 0)
        rows = squared_gradients(benchmark, k, anchor, size)
        theirs += LAMBDA * distance(total([(1 / len(rows), row) for _, row in rows]), theta, anchor).item()
    assert theirs == pytest.approx(ours(benchmark, learned, current, LAMBDA, kind, size=size), rel=1e-4)


def test_avalanche_online():
    benchmark, learned, current = setting(Scenario.DOMAIN)
    theta, decay = member_of(current, 0), 0.7
    omega = None
    for k, params in enumerate(learned, start=1):
        rows = squared_gradients(benchmark, k, member_of(params, 0), BATCH)
        fisher = total([(1 / len(rows), row) for _, row in rows])
        omega = fisher if omega is None else {n: decay * omega[n] + fisher[n] for n in fisher}
    assert omega is not None
    theirs = LAMBDA * distance(omega, theta, member_of(learned[-1], 0)).item()
    assert theirs == pytest.approx(ours(benchmark, learned, current, LAMBDA, "batch", gamma=decay), rel=1e-4)


@pytest.mark.parametrize("scenario", [Scenario.TASK, Scenario.DOMAIN])
def test_van_de_ven_offline(scenario):
    benchmark, learned, current = setting(scenario)
    theta = member_of(current, 0)
    theirs = 0.0
    for k, params in enumerate(learned, start=1):
        anchor = member_of(params, 0)
        fisher = {n: v / (N - 1) for n, v in exact_fisher(benchmark, k, anchor).items()}
        theirs += 0.5 * LAMBDA * distance(fisher, theta, anchor).item()
    found = ours(benchmark, learned, current, LAMBDA / 2 * N / (N - 1), "exact")
    assert theirs == pytest.approx(found, rel=1e-4)


def test_van_de_ven_online():
    benchmark, learned, current = setting(Scenario.DOMAIN)
    theta, gamma = member_of(current, 0), 0.7
    omega = None
    for k, params in enumerate(learned, start=1):
        fisher = {n: v / N for n, v in exact_fisher(benchmark, k, member_of(params, 0)).items()}
        omega = fisher if omega is None else {n: fisher[n] + gamma * omega[n] for n in fisher}
    assert omega is not None
    theirs = 0.5 * LAMBDA * gamma * distance(omega, theta, member_of(learned[-1], 0)).item()
    found = ours(benchmark, learned, current, LAMBDA * gamma / 2, "exact", gamma=gamma)
    assert theirs == pytest.approx(found, rel=1e-4)


def test_a_batch_fisher_is_about_one_bth_where_gradients_cancel():
    """Labels drawn from the model itself have gradients of mean 0, as at an optimum."""
    samples, size = 4096, 16
    benchmark = tiny_benchmark(Scenario.DOMAIN, (2, 2), members=1, samples=samples)
    network = network_for(benchmark)
    params = random_params(network, 1, 1)
    train = benchmark.tasks[0].train
    logits = network.logits(params, network.features(params, train.inputs[None].float() / train.scale))[0]
    drawn = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    # The source's classes of this task are its outputs, so drawn labels can stand in their place.
    train = replace(train, labels=torch.where(train.labels < 2, drawn, train.labels))
    single, batch = (
        Fisher(kind, None, size)(network, params, train, None, benchmark.seeds, 1) for kind in ("empirical", "batch")
    )
    ratio = sum(v.sum() for v in single.values()) / sum(v.sum() for v in batch.values())
    assert ratio.item() == pytest.approx(size, rel=0.35)


def test_per_parameter_divides_by_the_number_of_backbone_parameters():
    benchmark, learned, current = setting(Scenario.TASK)
    size = count_backbone(current)
    plain = ours(benchmark, learned, current, LAMBDA, "empirical")
    assert ours(benchmark, learned, current, LAMBDA * size, "empirical", scale="per_parameter") == pytest.approx(plain)


# --- distillation ---

FACTOR, TAU = 1.3, 2.0


def our_distillation(
    benchmark: Benchmark, teachers: list[Params], current: Params, factor: float, last: bool, distance: str
) -> float:
    """clsearch's LwF penalty on all samples of the last task."""
    network, task = network_for(benchmark), benchmark.tasks[-1]
    regularizer = LearningWithoutForgetting(newest_only=last, train_head=True, distance=distance, squared=False)
    memory: dict[str, Tensor] = {}
    for old, params in zip(benchmark.tasks, teachers, strict=False):
        memory = regularizer.remember(network, benchmark, old, params, memory)
    numbers = {"distillation_factor": torch.tensor([factor]), "distillation_temperature": torch.tensor([TAU])}
    penalty = regularizer.prepare(network, benchmark, task, memory, numbers)
    assert penalty is not None
    positions = torch.arange(N)[None]
    student = student_of(network, current, task.train.take(positions)[0])
    return penalty(student, Batch(positions)).penalty.item()


def cross_entropy_at_tau(teacher: Tensor, student: Tensor) -> Tensor:
    """As van de Ven's: mean over the batch of -Σ q log p."""
    return -((teacher / TAU).softmax(1) * (student / TAU).log_softmax(1)).sum(1).mean()


def answers(params: Params, benchmark: Benchmark) -> Tensor:
    inputs, _ = benchmark.tasks[-1].train.take(torch.arange(N)[None])
    return forward(member_of(params, 0), inputs[0])


def test_clarena_distillation():
    """softmax(z) to the power 1/τ, renormalised; a teacher per task."""
    benchmark, learned, current = setting(Scenario.TASK)
    theirs = torch.zeros(())
    for k, teacher in enumerate(learned):
        columns = list(benchmark.tasks[k].classes)
        q, p = (
            powers / powers.sum(1, keepdim=True)
            for powers in (answers(m, benchmark)[:, columns].softmax(1) ** (1 / TAU) for m in (teacher, current))
        )
        theirs = theirs - FACTOR * (q * p.log()).sum(1).mean()
    found = our_distillation(benchmark, learned, current, FACTOR, last=False, distance="cross_entropy")
    assert theirs.item() == pytest.approx(found, rel=1e-4)
    t = len(learned) + 1  # 1.0.0 divides by the number of the current task
    found = our_distillation(benchmark, learned, current, FACTOR / t, last=False, distance="cross_entropy")
    assert theirs.item() / t == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("scenario", [Scenario.TASK, Scenario.DOMAIN])
def test_van_de_ven_distillation(scenario):
    """The newest teacher; a term per old head, or one term that counts t - 1 times where the head is shared."""
    benchmark, learned, current = setting(scenario)
    teacher, student = answers(learned[-1], benchmark), answers(current, benchmark)
    if scenario is Scenario.TASK:
        columns = [list(task.classes) for task in benchmark.tasks[: len(learned)]]
        theirs = sum(cross_entropy_at_tau(teacher[:, c], student[:, c]).item() for c in columns)
    else:
        theirs = len(learned) * cross_entropy_at_tau(teacher, student).item()
    found = our_distillation(benchmark, learned, current, 1.0, last=True, distance="cross_entropy")
    assert theirs == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("scenario", list(Scenario))
def test_avalanche_distillation(scenario):
    """The newest teacher; a term per old head, or one where there is one head, over the outputs seen before."""
    benchmark, learned, current = setting(scenario)
    teacher, student = answers(learned[-1], benchmark), answers(current, benchmark)
    heads = {
        Scenario.TASK: [list(task.classes) for task in benchmark.tasks[: len(learned)]],
        Scenario.DOMAIN: [[0, 1]],
        Scenario.CLASS: [list(benchmark.seen(len(learned)))],
    }[scenario]
    theirs = 0.0
    for columns in heads:
        logs = (student[:, columns] / TAU).log_softmax(1), (teacher[:, columns] / TAU).softmax(1)
        theirs += FACTOR * torch.nn.functional.kl_div(*logs, reduction="batchmean").item()
    t = len(learned) + 1
    factor = FACTOR / (t - 1) if scenario is Scenario.DOMAIN else FACTOR
    found = our_distillation(benchmark, learned, current, factor, last=True, distance="kl")
    assert theirs == pytest.approx(found, rel=1e-3)
