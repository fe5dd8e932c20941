"""Learning rates within a task, against torch's own schedulers and by hand."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

from clsearch.networks.mlp import trainable_copy
from clsearch.training.loop import learn_sequence, learn_task, train_step
from clsearch.training.schedules import lr_multipliers
from clsearch.training.task_setup import plan_epochs, prepare_task
from tests.helpers import small_config, small_run


def torchs(steps, make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return torch.tensor(rates, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_cosine_is_torchs(steps):
    expected = torchs(steps, lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps))
    torch.testing.assert_close(lr_multipliers(small_config(schedule="cosine"), steps), expected)


def test_steps_are_torchs():
    config = small_config(schedule="step", milestones=(0.25, 0.6), decay=0.3)
    expected = torchs(20, lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [5, 12], gamma=0.3))
    torch.testing.assert_close(lr_multipliers(config, 20), expected)


@pytest.mark.parametrize(("schedule", "after"), [("constant", 1.0), ("cosine", None), ("step", None)])
def test_a_warm_up_rises_in_equal_parts_and_the_schedule_has_the_rest(schedule, after):
    shares = lr_multipliers(small_config(schedule=schedule, warmup=0.2), 20)
    torch.testing.assert_close(shares[:4], torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64))
    torch.testing.assert_close(shares[4:], lr_multipliers(small_config(schedule=schedule), 16))
    assert shares[4] == 1
    if after is not None:
        assert shares[4:].eq(after).all()


def test_a_constant_rate_is_no_schedule():
    run = small_run()
    assert not run.scheduled
    assert "learning_rate" not in run.columns
    setup = prepare_task(run, run.initial_state(), run.benchmark.tasks[0])
    assert all(step.rate is None for steps in plan_epochs(run, setup) for step in steps)


def rates_logged(algorithm, **settings):
    """[E] mean learning rate of each epoch, and the final parameters."""
    run = small_run(algorithm, schedule="cosine", warmup=0.1, learning_rate=0.05, epochs=3, **settings)
    state = learn_sequence(run)
    return state.curve[:, 0, run.columns.index("learning_rate")], state


def test_the_rates_start_anew_at_each_task():
    rates, state = rates_logged("finetuning")
    tasks = state.epochs[:, 0]
    assert tasks.tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    for task in (1, 2, 3):
        own = rates[tasks == task]
        assert own[0] > own[1] > own[2] > 0
        run = small_run(schedule="cosine", warmup=0.1, learning_rate=0.05, epochs=3)
        n, size = run.benchmark.tasks[task - 1].train.sizes[0], 128
        shares = lr_multipliers(run.config, 3 * math.ceil(n / size))
        weights = torch.tensor(([size] * (n // size) + ([n % size] if n % size else [])) * 3)
        means = [(s * w).sum() / w.sum() for s, w in zip(shares.chunk(3), weights.chunk(3), strict=True)]
        torch.testing.assert_close(own.double(), 0.05 * torch.stack(means), rtol=1e-5, atol=0)


@pytest.mark.parametrize("algorithm", ["lwf", "ewc", "lwf_ewc"])
@pytest.mark.parametrize("optimizer_state", ["reset", "keep"])
def test_with_a_factor_tending_to_0_the_rates_and_the_parameters_are_finetunings(algorithm, optimizer_state):
    settings = {"optimizer_state": optimizer_state, "momentum": 0.9}
    small = {
        "lwf": {"distillation_factor": 1e-30},
        "ewc": {"penalty_factor": 1e-30},
        "lwf_ewc": {"distillation_factor": 1e-30, "penalty_factor": 1e-30},
    }[algorithm]
    rates, state = rates_logged(algorithm, **settings, **small)
    expected, finetuned = rates_logged("finetuning", **settings)
    assert torch.equal(rates, expected)
    for name, value in finetuned.params.items():
        torch.testing.assert_close(state.params[name], value)


@pytest.mark.parametrize("algorithm", ["joint", "independent"])
def test_references_follow_a_schedule_over_their_own_steps(algorithm):
    rates, state = rates_logged(algorithm)
    for task in (1, 2, 3):
        own = rates[state.epochs[:, 0] == task]
        assert own[0] > own[1] > own[2] > 0


def test_members_of_different_sizes_follow_their_own_steps():
    settings = {"schedule": "cosine", "class_order": "shuffled", "classes_per_task": (2, 3, 4), "batch_size": 16}

    def after_two(seeds):
        run = small_run("ewc", seeds, penalty_factor=0.1, **settings)
        return learn_task(run, learn_task(run, run.initial_state())).params

    together = after_two((0, 1, 2))
    for m in range(3):
        for name, value in after_two((m,)).items():
            torch.testing.assert_close(together[name][m], value[0], atol=1e-5, rtol=1e-4)


def test_a_step_moves_the_parameters_by_its_rate():
    run = small_run(iterations=2, learning_rate=0.5, warmup=0.5)
    setup = prepare_task(run, run.initial_state(), run.benchmark.tasks[0])
    (steps,) = plan_epochs(run, setup)
    assert [step.rate.tolist() for step in steps] == [[0.25], [0.5]]
    params = run.initial_state().params
    half, whole = trainable_copy(params), trainable_copy(params)
    train_step(run, setup, half, {}, steps[0].batch, steps[0].rate)
    train_step(run, setup, whole, {}, steps[0].batch)
    for name, value in params.items():
        torch.testing.assert_close(2 * (half[name] - value), whole[name] - value, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("warmup", "steps", "rising"), [(0.99, 10, 9), (0.01, 8, 1), (0.5, 1, 0), (0.0, 8, 0)])
def test_a_warm_up_takes_at_least_a_step_and_never_all(warmup, steps, rising):
    shares = lr_multipliers(small_config(warmup=warmup), steps)
    assert (shares < 1).sum() == rising
    assert len(shares) == steps
    assert shares[-1] == 1
