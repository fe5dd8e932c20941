"""Saving, loading and going on."""

import dataclasses
import os
import pickle

import pytest
import torch

from clsearch.core.loop import learn_sequence, learn_task
from clsearch.core.state import TrialState
from tests.helpers import CPU, small_run

CASES = [
    ("finetuning", {"momentum": 0.9, "optimizer_state": "keep"}),
    ("finetuning", {"optimizer": "adam", "learning_rate": 0.01, "optimizer_state": "keep"}),
    ("finetuning", {"momentum": 0.9, "scenario": "class", "iterations": 7}),
    ("lwf", {"momentum": 0.9, "optimizer_state": "keep"}),
    ("lwf", {"scenario": "class", "optimizer": "adamw", "learning_rate": 0.01, "optimizer_state": "keep"}),
    ("ewc", {"momentum": 0.9, "optimizer_state": "keep", "penalty_factor": 10.0}),
    (
        "ewc",
        {"benchmark": "permuted-digits", "penalty_p_norm": 1.5, "momentum": 0.5, "optimizer_state": "keep"},
    ),
    ("ewc", {"benchmark": "rotated-digits", "schedule": "step", "warmup": 0.2, "random_crop": 1}),
    ("lwf", {"schedule": "cosine", "random_crop": 2, "horizontal_flip": True, "iterations": 6}),
    ("lwf_ewc", {"backbone": "cnn", "hidden": (4,), "iterations": 3, "batch_size": 8, "fisher_samples": 8}),
]


def assert_bit_equal(first: TrialState, second: TrialState) -> None:
    """Equal in everything but the seconds that it took."""
    for field in dataclasses.fields(TrialState):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, dict):
            assert list(a) == list(b)
            assert all(torch.equal(a[name], b[name]) for name in a), field.name
        elif isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)), field.name
        elif field.name != "seconds":
            assert a == b


@pytest.mark.parametrize(("algorithm", "settings"), CASES)
def test_going_on_from_a_saved_state_is_going_straight_through_bit_for_bit(algorithm, settings, tmp_path):
    run = small_run(algorithm, seeds=(0, 1), **settings)
    straight = learn_sequence(run)
    state = run.initial_state()
    for _ in run.benchmark.tasks:
        state.save(tmp_path / "state.pt")
        fresh = small_run(algorithm, seeds=(0, 1), **settings)
        loaded = TrialState.load(tmp_path / "state.pt", fresh.fingerprint, CPU)
        assert_bit_equal(loaded, state)
        assert_bit_equal(learn_sequence(fresh, loaded), straight)
        state = learn_task(run, state)
    assert_bit_equal(state, straight)


@pytest.mark.parametrize(
    "other",
    [
        small_run("ewc", seeds=(0, 2)),
        small_run("ewc", seeds=(1, 0)),
        small_run("ewc", seeds=(0, 1), penalty_factor=2.0),
        small_run("lwf", seeds=(0, 1)),
    ],
)
def test_a_state_of_another_configuration_or_of_other_seeds_is_refused(other, tmp_path):
    run = small_run("ewc", seeds=(0, 1))
    run.initial_state().save(tmp_path / "state.pt")
    with pytest.raises(ValueError, match=run.fingerprint) as refused:
        TrialState.load(tmp_path / "state.pt", other.fingerprint, CPU)
    assert other.fingerprint in str(refused.value)
    assert str(tmp_path / "state.pt") in str(refused.value)


def test_a_state_that_is_not_there_is_a_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        TrialState.load(tmp_path / "state.pt", "0" * 16, CPU)


def test_a_states_file_holds_nothing_but_tensors_and_plain_values(tmp_path):
    run = small_run("lwf")
    state = learn_task(run, run.initial_state())
    state.save(tmp_path / "state.pt")
    content = torch.load(tmp_path / "state.pt", weights_only=True)
    assert content.keys() == vars(state).keys()
    assert torch.equal(content["params"]["head.weight"], state.params["head.weight"])


def test_a_file_that_holds_objects_of_other_kinds_is_not_opened(tmp_path):
    run = small_run()
    torch.save(vars(run.initial_state()) | {"memory": tmp_path}, tmp_path / "state.pt")
    with pytest.raises(pickle.UnpicklingError):
        TrialState.load(tmp_path / "state.pt", run.fingerprint, CPU)


def test_a_save_that_fails_leaves_the_state_before_it(tmp_path, monkeypatch):
    run = small_run()
    before = run.initial_state()
    before.save(tmp_path / "state.pt")

    def refuse(source: object, target: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        learn_task(run, before).save(tmp_path / "state.pt")
    assert_bit_equal(TrialState.load(tmp_path / "state.pt", run.fingerprint, CPU), before)


def test_learning_leaves_the_state_that_it_began_from_as_it_was():
    run = small_run("ewc", momentum=0.9, optimizer_state="keep")
    first = learn_task(run, run.initial_state())
    copies = {
        field.name: {k: v.clone() for k, v in value.items()} if isinstance(value, dict) else value.clone()
        for field in dataclasses.fields(first)
        if not isinstance(value := getattr(first, field.name), (str, int, float))
    }
    learn_task(run, first)
    assert_bit_equal(dataclasses.replace(first, **copies), first)


def test_a_loaded_state_has_its_records_on_the_cpu_and_the_rest_on_the_device(tmp_path):
    state = learn_task(run := small_run("lwf"), run.initial_state())
    state.save(tmp_path / "state.pt")
    loaded = TrialState.load(tmp_path / "state.pt", run.fingerprint, torch.device("meta"))
    assert {t.device.type for t in loaded.params.values()} == {"meta"}
    assert {loaded.accuracy.device.type, loaded.curve.device.type, loaded.epochs.device.type} == {"cpu"}
