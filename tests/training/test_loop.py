"""Steps, tasks and sequences: identities that hold for any configuration."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clsearch.methods.base import PenaltyOutput, Student, recall
from clsearch.networks.mlp import Params, is_head, trainable_copy
from clsearch.tasks.samples import Batch
from clsearch.training.evaluation import measure_row
from clsearch.training.loop import (
    DivergedError,
    learn_sequence,
    learn_task,
    remember_task,
    train_next_task,
    train_step,
    train_task,
)
from clsearch.training.task_setup import Step, plan_epochs, prepare_task
from tests.helpers import (
    assert_bit_equal,
    forward,
    member_of,
    same_batch,
    same_params,
    small_run,
)
from tests.training.runs import CLASS, DOMAIN, GROUPS, SCENARIOS, TASK, column, everything, lesson_of

FULL_BATCH = {"batch_size": 10_000, "epochs": 1}


def distance(first: Params, second: Params) -> float:
    return max((first[name] - second[name]).abs().max().item() for name in first)


# --- members ---


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [*SCENARIOS, {"benchmark": "permuted-digits"}, {"benchmark": "rotated-digits"}])
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [("finetuning", {}), ("lwf", {}), ("ewc", {"penalty_factor": 10.0}), ("ewc", {"penalty_p_norm": 1.5})],
)
def test_a_cohort_of_three_equals_three_cohorts_of_one(algorithm, settings, scenario):
    seeds = (3, 0, 11)
    together = learn_sequence(small_run(algorithm, seeds, momentum=0.5, epochs=1, **settings, **scenario))
    for m, seed in enumerate(seeds):
        alone = learn_sequence(small_run(algorithm, (seed,), momentum=0.5, epochs=1, **settings, **scenario))
        for name, value in alone.params.items():
            torch.testing.assert_close(together.params[name][m], value[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.accuracy[m], alone.accuracy[0], rtol=0, atol=1e-5, equal_nan=True)
        torch.testing.assert_close(together.curve[:, m], alone.curve[:, 0], rtol=1e-4, atol=1e-5)


def test_members_with_other_seeds_are_other_trials():
    state = learn_sequence(small_run(seeds=(0, 1)))
    assert not torch.equal(state.params["head.weight"][0], state.params["head.weight"][1])
    assert not torch.equal(state.curve[:, 0], state.curve[:, 1])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["finetuning", "lwf", "ewc"])
def test_the_same_seed_gives_the_same_trial_bit_for_bit_and_nothing_global_is_drawn(algorithm):
    torch.manual_seed(1)
    first = learn_sequence(small_run(algorithm, (0, 1)))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = learn_sequence(small_run(algorithm, (0, 1)))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first.params[name], second.params[name]) for name in first.params)
    assert all(torch.equal(first.memory[name], second.memory[name]) for name in first.memory)
    assert torch.equal(first.accuracy, second.accuracy)
    assert torch.equal(first.curve, second.curve)


# --- one step ---


@pytest.mark.parametrize(
    ("scenario", "answers"),
    [
        (TASK, [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)]),
        (DOMAIN, [(0, 1)] * 5),
        (CLASS, [(0, 1, 2, 3), (0, 1, 2, 3, 4, 5, 6), tuple(range(10))]),
    ],
)
def test_one_full_batch_a_task_is_one_step_of_plain_gradient_descent(scenario, answers):
    run = small_run(seeds=(0, 1), learning_rate=0.3, **FULL_BATCH, **scenario)
    params = run.initial_state().params
    state = learn_sequence(run)
    for t, task in enumerate(run.benchmark.tasks, start=1):
        allowed = list(answers[t - 1])
        inputs, labels = everything(task.train)
        stepped: list[Params] = []
        for m in range(2):
            leaves = {name: value.clone().requires_grad_() for name, value in member_of(params, m).items()}
            logits = forward(leaves, inputs[m])[:, allowed]
            targets = torch.tensor([allowed.index(label) for label in labels[m].tolist()])
            loss = cross_entropy(logits, targets)
            slopes = torch.autograd.grad(loss, list(leaves.values()))
            stepped.append({n: (v - 0.3 * g).detach() for (n, v), g in zip(leaves.items(), slopes, strict=True)})
            # The curve's row is the step's own: measured before it.
            row = state.curve[t - 1, m]
            assert column(run, row, "loss_classification").item() == pytest.approx(loss.item(), rel=1e-5)
            correct = (logits.argmax(-1) == targets).double().mean().item()
            assert column(run, row, "accuracy").item() == pytest.approx(correct, abs=1e-6)
        params = {name: torch.stack([member[name] for member in stepped]) for name in params}
    assert distance(state.params, params) < 1e-5


@pytest.mark.parametrize("algorithm", ["finetuning", "lwf", "ewc"])
def test_a_task_leaves_the_state_that_it_was_given_as_it_was(algorithm):
    run = small_run(algorithm, (0, 1), optimizer="adam", optimizer_state="keep", scenario="class")
    state = learn_task(run, run.initial_state())
    before = {name: value.clone() for name, value in (state.params | state.moments | state.memory).items()}
    found, again = (train_task(run, state, run.benchmark.tasks[1]) for _ in range(2))
    for name, value in (state.params | state.moments | state.memory).items():
        assert torch.equal(value, before[name])
    moved = found.params | found.moments
    assert all(torch.equal(moved[name], value) for name, value in (again.params | again.moments).items())
    assert distance(found.params, state.params) > 0
    assert not any(value.requires_grad for value in moved.values())


def test_what_a_step_logs_is_of_that_step_even_where_it_is_part_of_the_parameters():
    run = small_run("ewc", (0, 1))
    state = run.initial_state()
    setup, params = prepare_task(run, state, run.benchmark.tasks[0]), trainable_copy(state.params)

    def penalty(student: Student, batch: Batch) -> PenaltyOutput:
        bias = student.params["head.bias"][:, 0, 0]
        return PenaltyOutput(bias, {"seen": bias})

    own = dataclasses.replace(setup, penalties=(penalty,))
    before = params["head.bias"][:, 0, 0].detach().clone()
    first, second = (train_step(run, own, params, {}, Batch(torch.arange(8).expand(2, -1))) for _ in range(2))
    for name in ("seen", "penalty"):
        assert torch.equal(first.terms[name], before)
        assert not torch.equal(second.terms[name], before)


# --- regularizers in the loop ---


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(
    ("algorithm", "factor", "settings", "large"),
    [
        ("lwf", "distillation_factor", {"train_head": False}, 1.0),
        ("lwf", "distillation_factor", {"train_head": True}, 1.0),
        ("ewc", "penalty_factor", {}, 10.0),
        ("ewc", "penalty_factor", {"penalty_p_norm": 1.0}, 1.0),
    ],
)
def test_finetuning_is_the_limit_of_a_factor_that_goes_to_zero(algorithm, factor, settings, large, scenario):
    common = {"seeds": (0, 1), "momentum": 0.5, **scenario}
    finetuning = learn_sequence(small_run("finetuning", **common))
    tiny = learn_sequence(small_run(algorithm, **{factor: 1e-10}, **settings, **common))
    strong = learn_sequence(small_run(algorithm, **{factor: large}, **settings, **common))
    assert distance(tiny.params, finetuning.params) < 1e-6
    assert torch.equal(tiny.accuracy.nan_to_num(-1), finetuning.accuracy.nan_to_num(-1))
    assert distance(strong.params, finetuning.params) > 1e-3


def test_a_strong_parameter_change_penalty_keeps_the_backbone_nearer_to_the_anchor():
    moved = []
    for algorithm, settings in (("finetuning", {}), ("ewc", {"penalty_factor": 100.0})):
        run = small_run(algorithm, (0, 1), epochs=5, **settings)
        first = learn_task(run, run.initial_state())
        second = learn_task(run, first)
        changes = [(second.params[n] - v).square().sum() for n, v in first.params.items() if not is_head(n)]
        moved.append(sum(changes).item())
    assert moved[1] < 0.5 * moved[0]


def test_strong_distillation_keeps_the_answers_of_the_teacher():
    divergence = []
    for factor in (1e-6, 10.0):
        run = small_run("lwf", (0, 1), scenario="class", epochs=8, distillation_factor=factor)
        state = learn_task(run, learn_task(run, run.initial_state()))
        divergence.append(column(run, state.curve[-1], "kl"))
    assert (divergence[1] < 0.7 * divergence[0]).all()


# --- outputs that may not move ---

RESTLESS = [
    {"momentum": 0.9, "weight_decay": 0.1, "optimizer_state": "keep"},
    {"momentum": 0.9, "weight_decay": 0.1, "optimizer_state": "reset"},
    {"optimizer": "adam", "weight_decay": 0.1, "learning_rate": 0.01, "optimizer_state": "keep"},
    {"optimizer": "adamw", "weight_decay": 0.1, "learning_rate": 0.01, "optimizer_state": "keep"},
]
TRAINED_HEAD = {"train_head": True}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", RESTLESS)
@pytest.mark.parametrize(
    ("algorithm", "settings", "past_moves"),
    [
        ("finetuning", TASK, False),
        ("ewc", TASK, False),
        ("lwf", TASK, False),
        ("lwf", TASK | TRAINED_HEAD, True),
        ("finetuning", CLASS, True),
        ("ewc", CLASS, True),
        ("lwf", CLASS, True),
    ],
)
def test_head_columns_move_only_while_they_may_be_answered_or_distilled(algorithm, settings, past_moves, optimizer):
    run = small_run(algorithm, (0, 1), epochs=1, **settings, **optimizer)
    state = run.initial_state()
    for t in range(3):
        after = learn_task(run, state)
        moments = state.moments if optimizer["optimizer_state"] == "keep" else run.optimizer.initial(state.params)
        for group, columns in enumerate(GROUPS):
            trainable_mask = group == t or (group < t and past_moves)
            for name in ("head.weight", "head.bias"):
                old, new = state.params[name][..., columns], after.params[name][..., columns]
                assert (new != old).any(-2).all() if trainable_mask else torch.equal(new, old)
            # Nor do they gather momentum, which would move them once they may.
            for name, moment in moments.items():
                if is_head(name.rpartition("/")[2]) and not trainable_mask:
                    assert torch.equal(after.moments[name][..., columns], moment[..., columns])
        state = after


# --- epochs, iterations, batches ---


def order_of(steps: list[Step]) -> Tensor:
    """[M, n] positions of an epoch, of members that all have as many."""
    assert all(step.batch.valid is None for step in steps)
    return torch.cat([step.batch.positions for step in steps], 1)


def test_an_epoch_goes_through_every_sample_once_in_batches_of_the_configured_size():
    run = small_run(seeds=(0, 5), epochs=3, batch_size=50)
    task = run.benchmark.tasks[0]
    (n, _) = task.train.sizes
    assert n % 50
    epochs = list(plan_epochs(run, lesson_of(run, task)))
    assert len(epochs) == 3
    for steps in epochs:
        assert [step.batch.positions.shape[1] for step in steps] == [50] * (n // 50) + [n % 50]
        assert torch.equal(order_of(steps).sort(1).values, torch.arange(n).expand(2, -1))


def test_the_order_of_samples_differs_by_epoch_task_and_seed_and_not_by_the_other_members():
    run = small_run(seeds=(0, 5), epochs=2, benchmark="permuted-digits")
    orders = [order_of(steps) for task in run.benchmark.tasks[:2] for steps in plan_epochs(run, lesson_of(run, task))]
    assert len({tuple(order.tolist()) for pair in orders for order in pair}) == 8
    alone = small_run(seeds=(5,), epochs=2, benchmark="permuted-digits")
    (first, _) = plan_epochs(alone, lesson_of(alone, alone.benchmark.tasks[0]))
    assert torch.equal(order_of(first)[0], orders[0][1])


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [1, 7, 9, 20])
def test_iterations_are_exactly_that_many_steps_a_task(iterations):
    settings = {"iterations": iterations, "optimizer": "adam", "learning_rate": 0.001}
    run = small_run(seeds=(0, 1), **settings)
    for task in run.benchmark.tasks:
        assert sum(len(steps) for steps in plan_epochs(run, lesson_of(run, task))) == iterations
    steps_taken = learn_sequence(run).moments["steps"]
    assert torch.equal(steps_taken, torch.full((2,), float(iterations)))
    kept = learn_sequence(small_run(seeds=(0, 1), optimizer_state="keep", **settings)).moments["steps"]
    assert torch.equal(kept, torch.full((2,), 3.0 * iterations))


def test_the_first_iterations_are_the_first_batches_of_an_epoch():
    by_steps, by_epochs = small_run(iterations=9, batch_size=64), small_run(epochs=2, batch_size=64)
    task = by_steps.benchmark.tasks[0]
    steps, epochs = (
        [step.batch for steps in plan_epochs(run, lesson_of(run, task)) for step in steps]
        for run in (by_steps, by_epochs)
    )
    assert len(epochs) > 9
    assert all(same_batch(a, b) for a, b in zip(steps, epochs[:9], strict=True))


# --- the learning curve ---


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("algorithm", ["finetuning", "lwf", "ewc"])
def test_loss_is_classification_plus_penalty_and_the_first_task_has_none(algorithm, scenario):
    run = small_run(algorithm, (0, 1), **scenario)
    state = learn_sequence(run)
    tasks = len(run.benchmark.tasks)
    assert state.epochs.tolist() == [[t, epoch] for t in range(1, tasks + 1) for epoch in (1, 2)]
    assert state.curve.shape == (2 * tasks, 2, len(run.columns))
    loss, classification, penalty = (
        column(run, state.curve, name) for name in ("loss", "loss_classification", "penalty")
    )
    torch.testing.assert_close(loss, classification + penalty)
    assert (classification > 0).all()
    assert (penalty[:2] == 0).all()
    assert bool((penalty[2:] > 0).all()) == (algorithm != "finetuning")


def test_a_row_of_the_curve_is_the_mean_over_samples_of_an_epochs_steps():
    # So small a learning rate leaves the parameters where they are: each epoch's row is the loss over all data,
    # the last and smaller batch included at its own weight.
    run = small_run(seeds=(0, 1), batch_size=100, learning_rate=1e-12)
    state = learn_task(run, run.initial_state())
    inputs, labels = everything(run.benchmark.tasks[0].train)
    assert len(labels[0]) % 100
    for m in range(2):
        logits = forward(member_of(run.initial_state().params, m), inputs[m])[:, :4]
        for epoch in (0, 1):
            assert column(run, state.curve[epoch, m], "loss").item() == pytest.approx(
                cross_entropy(logits, labels[m]).item(), rel=1e-5
            )
            assert column(run, state.curve[epoch, m], "accuracy").item() == pytest.approx(
                (logits.argmax(-1) == labels[m]).double().mean().item(), abs=1e-6
            )


# --- the parts of learning a task ---

PARTS = [
    ("finetuning", {"momentum": 0.9, "optimizer_state": "keep"}),
    ("lwf_ewc", CLASS),
    ("ewc", {"fisher": "sampled", "fisher_samples": 20, "anchors": "online"}),
    ("joint", DOMAIN),
    ("independent", TASK),
]


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "settings"), PARTS)
def test_an_attempt_trains_the_next_task_and_does_nothing_else(algorithm, settings):
    run = small_run(algorithm, (0, 1), **settings)
    before = learn_task(run, run.initial_state())
    after = train_next_task(run, before)
    trained = ("params", "moments", "curve", "epochs")
    assert_bit_equal(after, before, but=trained)
    assert after.seconds == before.seconds
    assert not same_params(after.params, before.params)
    assert after.epochs.tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert torch.equal(after.curve[:2], before.curve)
    # It may be made again, from the same state and with other numbers, as if it had never been made.
    assert not same_params(
        train_next_task(run.with_hyperparameters({"learning_rate": 0.3}), before).params, after.params
    )
    assert_bit_equal(train_next_task(run, before), after)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "settings"), PARTS)
def test_a_task_is_learned_by_an_attempt_a_memory_and_a_row_of_the_accuracy_matrix(algorithm, settings):
    run = small_run(algorithm, (0, 1), **settings)
    state, validation = run.initial_state(), [task.validation for task in run.benchmark.tasks]
    accuracy = measure_row(run, state, state.accuracy, validation)
    for _ in run.benchmark.tasks:
        parts = remember_task(run, train_next_task(run, state))
        accuracy = measure_row(run, parts, accuracy, validation)
        state = learn_task(run, state)
        assert_bit_equal(state, dataclasses.replace(parts, accuracy=accuracy))


@pytest.mark.parametrize(("algorithm", "settings"), PARTS)
def test_remembering_adds_a_learned_task_and_its_memory_and_nothing_else(algorithm, settings):
    run = small_run(algorithm, (0, 1), **settings)
    trained = train_next_task(run, learn_task(run, run.initial_state()))
    learned = remember_task(run, trained)
    assert_bit_equal(learned, trained, but=("tasks_learned", "memory"))
    assert (trained.tasks_learned, learned.tasks_learned) == (1, 2)
    for kind in ("teacher", "anchor"):
        kept = recall(learned.memory, f"{kind}/2/")
        assert all(torch.equal(value, trained.params[name]) for name, value in kept.items())
        assert bool(kept) == (kind in {"lwf_ewc": ("teacher", "anchor"), "ewc": ("anchor",)}.get(algorithm, ()))


# --- divergence ---


def test_a_learning_rate_far_too_large_is_a_divergence_that_names_task_epoch_and_seeds():
    run = small_run(seeds=(4, 9), learning_rate=1e6, hidden=(256, 256))
    with pytest.raises(DivergedError) as caught:
        learn_sequence(run)
    assert "epoch 1 of task 1" in str(caught.value)
    assert "seeds 4, 9" in str(caught.value)


def test_only_the_members_that_diverged_are_named():
    run = small_run(seeds=(4, 9, 2))
    rates = torch.tensor([0.1, 1e30, 0.1])
    with pytest.raises(DivergedError, match=r"seeds 9\)"):
        learn_sequence(dataclasses.replace(run, hyperparameters=run.hyperparameters | {"learning_rate": rates}))


def test_a_penalty_too_strong_for_the_learning_rate_diverges_when_it_begins_to_act():
    with pytest.raises(DivergedError, match="of task 2 "):
        learn_sequence(small_run("ewc", penalty_factor=1e12, epochs=20))


def test_a_run_that_does_not_diverge_stays_finite():
    state = learn_sequence(small_run("lwf", (0, 1)))
    assert all(value.isfinite().all() for value in state.params.values())
    assert math.isfinite(state.curve.sum().item())
    assert state.seconds > 0
