"""The references, joint and independent training, against loops written out by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clsearch.common.seeding import derive_generator
from clsearch.methods.registry import BUILT_IN
from clsearch.networks.mlp import Params
from clsearch.tasks.benchmark import shrink
from clsearch.tasks.samples import Mixture, Samples
from clsearch.tasks.transforms import PixelOrder, Rotation
from clsearch.training.loop import learn_sequence, learn_task
from clsearch.training.state import TrialState
from clsearch.training.task_setup import prepare_task
from clsearch.training.trial_setup import TrialSetup, build_trial
from tests.helpers import CPU, everything, forward, in_turn, member_of, same_params, small_config

SEEDS = (5, 2)
RATE, SIZE = 0.2, 16
CASES = [
    {"scenario": "task", "class_order": "shuffled", "classes_per_task": (2, 3, 4)},
    {"scenario": "domain", "class_order": "shuffled", "classes_per_task": (3, 3, 3)},
    {"scenario": "class", "classes_per_task": (2, 3, 4)},
    {"scenario": "task", "benchmark": "permuted-digits"},
    {"scenario": "domain", "benchmark": "permuted-digits"},
    {"scenario": "class", "benchmark": "permuted-digits"},
]
FEW = {"hidden": (8,), "batch_size": SIZE, "learning_rate": RATE, "tasks": 3}
LENGTHS = [{"epochs": 2}, {"iterations": 5}]


def run_of(algorithm: str, seeds=SEEDS, **settings: object) -> TrialSetup:
    run = build_trial(small_config(algorithm, **FEW | settings), seeds)
    return replace(run, benchmark=shrink(run.benchmark, 3, 45))


def answers_of(run: TrialSetup, i: int, k: int) -> list[int]:
    """What may be answered for task k by a model that knows tasks 1..i, counted out from the sizes of tasks."""
    counts = [len(task.classes) for task in run.benchmark.tasks]
    match str(run.config.scenario):
        case "task":
            return list(range(sum(counts[: k - 1]), sum(counts[:k])))
        case "domain":
            return list(range(counts[0]))
        case _:
            return list(range(sum(counts[:i])))


def trained_by_hand(run: TrialSetup, m: int, t: int, tasks: list[int], lengths: int) -> Params:
    """Plain gradient descent from fresh weights on the given tasks' samples together. lengths: how many times the
    configured iterations.
    """
    data = []
    for k in tasks:
        allowed = torch.full((run.benchmark.outputs,), -torch.inf)
        allowed[answers_of(run, t, k)] = 0
        data += [(x, y, allowed) for x, y in zip(*everything(run.benchmark.tasks[k - 1].train, m), strict=True)]
    params = member_of(run.network.initial(run.seeds, CPU), m)
    per_epoch = -(-len(data) // SIZE)
    steps = run.config.epochs * per_epoch if run.config.epochs else run.config.iterations * lengths
    for step in range(steps):
        epoch, place = step // per_epoch + 1, step % per_epoch
        order = torch.randperm(len(data), generator=derive_generator(run.seeds[m], t, epoch, "batches")).tolist()
        batch = [data[i] for i in order[place * SIZE : (place + 1) * SIZE]]
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        logits = forward(leaves, torch.stack([x for x, _, _ in batch])) + torch.stack([a for _, _, a in batch])
        loss = cross_entropy(logits, torch.stack([y for _, y, _ in batch]))
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        params = {n: (v - RATE * g).detach() for (n, v), g in zip(leaves.items(), slopes, strict=True)}
    return params


def accuracy_by_hand(run: TrialSetup, params: Params, m: int, i: int, k: int) -> float:
    inputs, labels = everything(run.benchmark.tasks[k - 1].validation, m)
    columns = answers_of(run, i, k)
    guesses = torch.tensor(columns)[forward(params, inputs)[:, columns].argmax(-1)]
    return (guesses == labels).double().mean().item()


def assert_params(ours: Params, m: int, theirs: Params) -> None:
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name][m], value, rtol=1e-4, atol=2e-6)


# --- joint ---


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("case", CASES)
def test_joint_at_t_is_fresh_weights_trained_on_all_tasks_so_far(case, length):
    run = run_of("joint", **case, **length)
    state = run.initial_state()
    for t in (1, 2, 3):
        state = learn_task(run, state)
        for m in range(2):
            params = trained_by_hand(run, m, t, list(range(1, t + 1)), lengths=t)
            assert_params(state.params, m, params)
            for k in (1, 2, 3):
                found = state.accuracy[m, t, k - 1].item()
                if case["scenario"] == "class" and k > t:
                    assert found != found
                else:
                    assert found == pytest.approx(accuracy_by_hand(run, params, m, t, k))


@pytest.mark.parametrize("algorithm", ["joint", "independent"])
def test_what_is_trained_anew_at_each_task_does_not_know_the_tasks_before(algorithm):
    """Neither parameters nor moments nor memory of the state it goes on from have a part in it."""
    run = run_of(algorithm, scenario="task", momentum=0.9, optimizer_state="keep")
    state = learn_task(run, run.initial_state())
    other = replace(
        state,
        params={name: torch.full_like(value, 7.0) for name, value in state.params.items()},
        moments={name: torch.full_like(value, 7.0) for name, value in state.moments.items()},
    )
    first, second = learn_task(run, state), learn_task(run, other)
    assert same_params(first.params, second.params)
    assert same_params(first.moments, second.moments)
    assert torch.equal(first.accuracy.nan_to_num(-1), second.accuracy.nan_to_num(-1))
    assert first.memory == second.memory == {}


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_joint_at_the_first_task_is_finetuning(scenario):
    states = []
    for algorithm in ("joint", "finetuning", *(["independent"] if scenario != "class" else [])):
        run = run_of(algorithm, scenario=scenario, classes_per_task=(3, 3, 3), momentum=0.5)
        states.append(learn_task(run, run.initial_state()))
    for other in states[1:]:
        assert same_params(states[0].params, other.params)
        assert torch.equal(states[0].curve, other.curve)
        assert torch.equal(states[0].accuracy[:, :2, 0].nan_to_num(-1), other.accuracy[:, :2, 0].nan_to_num(-1))


@pytest.mark.slow
def test_joint_training_knows_all_tasks_at_the_end_and_finetuning_does_not():
    found = {}
    for algorithm in ("joint", "finetuning"):
        run = build_trial(small_config(algorithm, scenario="class", epochs=15, batch_size=32, tasks=5), SEEDS)
        found[algorithm] = learn_sequence(run).accuracy[:, -1]
    assert (found["joint"] > 0.8).all()
    assert (found["finetuning"][:, :4] < 0.2).all()


@pytest.mark.parametrize("length", LENGTHS)
def test_the_cost_of_joint_training_shows_in_its_learning_curve(length):
    run = run_of("joint", **CASES[0], **length, optimizer="adam")
    state = run.initial_state()
    for t in (1, 2, 3):
        state = learn_task(run, state)
        sizes = [sum(task.train.sizes[m] for task in run.benchmark.tasks[:t]) for m in range(2)]
        expected = [5 * t if "iterations" in length else 2 * -(-n // SIZE) for n in sizes]
        assert state.moments["steps"].tolist() == expected


# --- mixtures ---


def concatenated(parts: tuple[Samples, ...], m: int) -> tuple[Tensor, Tensor]:
    both = [everything(part, m) for part in parts]
    return torch.cat([x for x, _ in both]), torch.cat([y for _, y in both])


@pytest.mark.parametrize("case", CASES)
def test_a_mixture_is_its_parts_one_after_another(case):
    run = run_of("joint", **case, epochs=1)
    setup = prepare_task(run, run.initial_state(), run.benchmark.tasks[2])
    parts = tuple(task.train for task in run.benchmark.tasks)
    assert setup.samples == Mixture(parts)
    assert setup.samples.sizes == tuple(sum(part.sizes[m] for part in parts) for m in range(2))
    for m in range(2):
        expected = concatenated(parts, m)
        found = everything(setup.samples, m)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        # In any order, and one member's positions say nothing to another.
        positions = torch.randint(0, min(setup.samples.sizes), (2, 50), generator=torch.Generator().manual_seed(m))
        inputs, labels = setup.samples.take(positions)
        assert torch.equal(inputs[m], expected[0][positions[m]])
        assert torch.equal(labels[m], expected[1][positions[m]])


@pytest.mark.parametrize("kind", ["permuted", "rotated"])
def test_tasks_of_a_benchmark_are_shown_their_own_way_in_a_mixture(kind):
    run = run_of("joint", benchmark=f"{kind}-digits", scenario="domain")
    parts = tuple(task.train for task in run.benchmark.tasks)
    mixture = Mixture(parts)
    for m in range(2):
        inputs, _ = everything(mixture, m)
        first = 0
        for part in parts:
            rows = part.rows[m, : part.sizes[m]]
            raw = part.inputs[rows].float() / 16
            shown = raw
            if isinstance(part.view, PixelOrder):
                shown = raw[:, part.view.order[m]]
            elif part.view is not None:
                shown = Rotation(part.view.grid[m : m + 1])(raw[None])[0]
            torch.testing.assert_close(
                inputs[first : first + len(rows)], shown, rtol=0, atol=1e-6 if kind == "rotated" else 0
            )
            first += len(rows)


@pytest.mark.parametrize("case", CASES)
def test_each_sample_of_a_mixture_may_be_answered_as_its_own_task_allows(case):
    run = run_of("joint", **case, epochs=1)
    for t in (1, 2, 3):
        setup = prepare_task(run, run.initial_state(), run.benchmark.tasks[t - 1])
        for k in range(1, t + 1):
            labels = torch.tensor([list(run.benchmark.tasks[k - 1].classes)] * 2)
            logits = torch.zeros(*labels.shape, run.benchmark.outputs)
            allowed = setup.mask_logits(logits, labels).isfinite()
            expected = torch.zeros(run.benchmark.outputs, dtype=torch.bool)
            expected[answers_of(run, t, k)] = True
            assert (allowed == expected).all()


@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize(
    "optimizer", [{"momentum": 0.9, "weight_decay": 0.1}, {"optimizer": "adamw", "weight_decay": 0.1}]
)
def test_outputs_of_tasks_to_come_rest_in_joint_training(scenario, optimizer):
    run = run_of("joint", scenario=scenario, classes_per_task=(2, 3, 4), **optimizer)
    state, fresh = run.initial_state(), run.initial_state().params
    for seen in (2, 5, 9):
        state = learn_task(run, state)
        for name in ("head.weight", "head.bias"):
            moved = state.params[name] != fresh[name]
            assert not moved[..., seen:].any()
            assert moved[..., :seen].any(-2).all()


# --- independent ---


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("case", [case for case in CASES if case["scenario"] != "class"])
def test_independent_is_one_fresh_network_per_task_that_answers_for_it(case, length):
    run = run_of("independent", **case, **length)
    state = run.initial_state()
    own: dict[tuple[int, int], float] = {}
    for t in (1, 2, 3):
        state = learn_task(run, state)
        for m in range(2):
            params = trained_by_hand(run, m, t, [t], lengths=1)
            assert_params(state.params, m, params)
            own[m, t] = accuracy_by_hand(run, params, m, t, t)
            for k in (1, 2, 3):
                found = state.accuracy[m, t, k - 1].item()
                assert found == pytest.approx(own[m, k]) if k <= t else found != found
            # Row 0 is what it is for all: the untrained network.
            fresh = member_of(run.network.initial(run.seeds, CPU), m)
            for k in (1, 2, 3):
                assert state.accuracy[m, 0, k - 1].item() == pytest.approx(accuracy_by_hand(run, fresh, m, 0, k))


def test_independent_networks_never_forget():
    accuracy = learn_sequence(run_of("independent", scenario="task")).accuracy
    for j in (1, 2, 3):
        for i in range(j, 4):
            assert torch.equal(accuracy[:, i, j - 1], accuracy[:, j, j - 1])


# --- resuming ---


# With other settings in tests/training/test_state.py.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "case"), in_turn(BUILT_IN, [case for case in CASES if case["scenario"] != "class"])
)
def test_a_resumed_sequence_is_the_unbroken_one(algorithm, case, tmp_path: Path):
    settings = {"optimizer": "adam", "learning_rate": 0.01, "optimizer_state": "keep", "iterations": 5}
    run = run_of(algorithm, **case | settings)
    unbroken = learn_sequence(run)
    state = run.initial_state()
    for t in (1, 2):
        learn_task(run, state).save(tmp_path / "state.pt")
        fresh = run_of(algorithm, **case | settings)
        state = TrialState.load(tmp_path / "state.pt", fresh.fingerprint, CPU)
        assert state.tasks_learned == t
        resumed = learn_sequence(fresh, state)
        for kind in ("params", "moments", "memory"):
            assert same_params(getattr(resumed, kind), getattr(unbroken, kind))
        for kind in ("accuracy", "curve", "epochs"):
            assert torch.equal(getattr(resumed, kind).nan_to_num(-1), getattr(unbroken, kind).nan_to_num(-1))
