"""Training in bfloat16: the backbone's passes, and nothing else."""

import math

import pytest
import torch
from torch import nn

from clsearch.networks.modules import ModuleNetwork
from clsearch.training.loop import learn_sequence, learn_task
from clsearch.training.state import TrialState
from tests.helpers import assert_bit_equal, small_run

HALF = {"precision": "bfloat16"}
BACKBONES = [{"hidden": (12,)}, {"backbone": "cnn", "hidden": (4,), "iterations": 3, "batch_size": 32, "tasks": 2}]


def test_the_mlp_multiplies_numbers_of_eight_bits() -> None:
    run = small_run(seeds=(0, 1), hidden=(6,), **HALF)
    params = run.initial_state().params
    inputs = torch.rand(2, 5, 64, generator=torch.Generator().manual_seed(0))
    weight, bias = (params[f"backbone.0.{name}"].bfloat16().float() for name in ("weight", "bias"))
    exact = (inputs.bfloat16().float() @ weight + bias).relu()
    found = run.features(params, inputs)
    assert found.dtype == torch.float32
    assert torch.equal(found, found.bfloat16().float())
    torch.testing.assert_close(found, exact, rtol=2**-7, atol=2**-7)
    assert not torch.equal(found, run.network.features(params, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("settings", BACKBONES, ids=["mlp", "cnn"])
@pytest.mark.parametrize("algorithm", ["finetuning", "joint", "lwf_ewc"])
def test_training_differs_by_rounding_only(algorithm, settings) -> None:
    if algorithm == "lwf_ewc":
        settings = settings | {"fisher_samples": 8}
    whole, half = (
        learn_sequence(small_run(algorithm, (0, 1), **settings, **own)) for own in ({"precision": "float32"}, HALF)
    )
    for name, value in half.params.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, whole.params[name], rtol=0, atol=0.03)
    assert not torch.equal(half.curve, whole.curve)
    assert all(value.dtype == torch.float32 for value in half.memory.values())


def test_what_is_remembered_and_measured_is_computed_in_float32() -> None:
    whole, half = (small_run("lwf_ewc", (0, 1), **own) for own in ({}, HALF))
    before = whole.initial_state()
    trained = learn_task(whole, before)
    for regularizer, same in zip(half.regularizers, whole.regularizers, strict=True):
        task = half.benchmark.tasks[0]
        found = regularizer.remember(half.network, half.benchmark, task, trained.params, {})
        expected = same.remember(whole.network, whole.benchmark, task, trained.params, {})
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
        assert found


def test_a_resumed_run_equals_an_unbroken_one(tmp_path) -> None:
    run = small_run("lwf_ewc", (0, 1), **HALF)
    through = learn_sequence(run)
    learn_task(run, run.initial_state()).save(tmp_path / "state.pt")
    resumed = learn_sequence(run, TrialState.load(tmp_path / "state.pt", run.fingerprint, run.device))
    assert_bit_equal(through, resumed)


def test_members_of_a_module_that_run_together_multiply_in_bfloat16_too() -> None:
    """As on a GPU. Torch's autocast has convolutions under vmap there, and only matrix products on a CPU."""
    run = small_run(seeds=(0, 1, 2), backbone=linear, hidden=None, **HALF)
    assert isinstance(run.network, ModuleNetwork)
    images = torch.rand(3, 2, 64, generator=torch.Generator().manual_seed(0))
    own, stacked = run.network.separated(run.initial_state().params, images)
    with torch.autocast("cpu", torch.bfloat16):
        together, in_turn = run.network.together(own, stacked), run.network.in_turn(own, stacked)
    assert together.dtype == in_turn.dtype == torch.bfloat16
    torch.testing.assert_close(together, in_turn, rtol=0.02, atol=0.02)


def linear(shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 5, bias=False))
