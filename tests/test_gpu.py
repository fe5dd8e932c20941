"""On a GPU: where everything lives, that it computes what the CPU computes, and that a share is a share."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from clsearch.execution.resources import WorkerResources, is_out_of_memory
from clsearch.networks.modules import ModuleNetwork
from clsearch.training.cohorts import initial_states, learn_together
from clsearch.training.loop import DivergedError, learn_sequence, learn_task
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import TrialSetup, build_trial, build_trials
from tests.helpers import small_config

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[1]

BACKBONES = [{"hidden": (12,)}, {"backbone": "cnn", "hidden": (8,)}]


def run_on(device: str, algorithm: str = "lwf_ewc", **settings: object) -> TrialSetup:
    return build_trial(small_config(algorithm, **settings), (0, 1, 2), device)


def tensors_of(run: TrialSetup, state: TrialState) -> list[Tensor]:
    samples = [part for task in run.benchmark.tasks for part in (task.train, task.validation)]
    data = [value for own in samples for value in (own.inputs, own.labels, own.rows, own.outputs)]
    return [
        *data,
        *run.hyperparameters.values(),
        *state.params.values(),
        *state.moments.values(),
        *state.memory.values(),
    ]


@pytest.mark.parametrize("settings", BACKBONES, ids=["mlp", "cnn"])
def test_data_parameters_and_memory_live_there(settings) -> None:
    run = run_on("cuda", momentum=0.9, **settings)
    state = learn_task(run, run.initial_state())
    assert {value.device.type for value in tensors_of(run, state)} == {"cuda"}
    assert state.accuracy.device.type == state.curve.device.type == "cpu"


@pytest.mark.parametrize("settings", BACKBONES, ids=["mlp", "cnn"])
@pytest.mark.parametrize("algorithm", ["finetuning", "joint", "independent", "lwf", "ewc", "lwf_ewc"])
def test_it_computes_what_the_cpu_computes(algorithm, settings, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # ten bits of mantissa, else
    here, there = (learn_sequence(run_on(device, algorithm, **settings)) for device in ("cpu", "cuda"))
    for name, value in there.params.items():
        torch.testing.assert_close(value.cpu(), here.params[name], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(there.accuracy, here.accuracy, rtol=0, atol=0.05, equal_nan=True)


def test_a_state_moves_from_one_to_the_other(tmp_path) -> None:
    first, second = run_on("cpu"), run_on("cuda")
    learn_task(first, first.initial_state()).save(tmp_path / "state.pt")
    moved = TrialState.load(tmp_path / "state.pt", second.fingerprint, second.device)
    assert {value.device.type for value in tensors_of(second, moved)} == {"cuda"}
    assert learn_sequence(second, moved).tasks_learned == 3


def test_convolutions_of_all_seeds_at_once_are_computed_in_bfloat16() -> None:
    run = run_on("cuda", "finetuning", backbone="cnn", hidden=(8,), precision="bfloat16")
    assert isinstance(run.network, ModuleNetwork)
    own, stacked = run.network.separated(run.initial_state().params, torch.rand(3, 4, 64, device="cuda"))
    with torch.autocast("cuda", torch.bfloat16):
        assert run.network.together(own, stacked).dtype == torch.bfloat16


def test_a_share_of_the_memory_is_all_that_a_worker_gets() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        device = WorkerResources(1, 0.05).apply("cuda")
        torch.empty(total // 100, dtype=torch.uint8, device=device)
        with pytest.raises(torch.OutOfMemoryError) as short:
            torch.empty(total // 10, dtype=torch.uint8, device=device)
        assert is_out_of_memory(short.value)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_images_a_second_are_told(precision, capsys) -> None:
    """Not judged: machines differ. Printed, CPU beside GPU, for who runs these tests."""
    rates = {}
    for device in ("cpu", "cuda"):
        run = run_on(device, "finetuning", backbone="cnn", hidden=(64,), precision=precision, iterations=40)
        state = learn_task(run, run.initial_state())  # kernels are chosen, memory is taken
        again = learn_task(run, state)
        rates[device] = 40 * 3 * run.config.batch_size / (again.seconds - state.seconds)
    with capsys.disabled():
        print(f"\ncnn, {precision}: {rates['cpu']:,.0f} images/s on the CPU, {rates['cuda']:,.0f} on the GPU")
    assert all(rate > 0 for rate in rates.values())


def test_trials_of_a_study_share_it(tmp_path) -> None:
    words = [sys.executable, "studies/lwf_temperature_sweep.py", "--trials", "2", "--epochs", "1", "--no-final"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    words += ["--gpus-per-trial", "0.25", "--precision", "bfloat16", "--results", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, env=inherited, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "lwf_temperature_sweep" / "trials.csv")
    assert set(table.state) == {"finished"}
    assert all(", GPU " in place for place in table.place)


def test_configurations_that_train_together_are_each_what_it_is_alone(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    configs = [small_config("ewc", penalty_factor=factor) for factor in (0.5, 1e37, 5.0)]
    run = build_trials(configs, (0, 1), "cuda")
    found = learn_together(run, learn_together(run, initial_states(run, configs)))
    assert [isinstance(state, DivergedError) for state in found] == [False, True, False]
    for config, state in zip(configs, found, strict=True):
        if isinstance(state, TrialState):
            alone = build_trial(config, (0, 1), "cuda")
            expected = learn_task(alone, learn_task(alone, alone.initial_state()))
            for name, value in expected.params.items():
                torch.testing.assert_close(state.params[name], value, rtol=1e-3, atol=1e-3)
