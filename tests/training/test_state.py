"""Saving, loading and going on."""

import dataclasses
import io
import os
from pathlib import Path

import pytest
import torch

from clsearch.common.checked_files import DamagedFile, read_checked
from clsearch.training.loop import learn_sequence, learn_task
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import build_trial
from tests.helpers import CPU, assert_bit_equal, small_config, small_run

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


@pytest.mark.slow
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
    content = torch.load(io.BytesIO(read_checked(tmp_path / "state.pt")), weights_only=True)
    assert content.keys() == vars(state).keys()
    assert torch.equal(content["params"]["head.weight"], state.params["head.weight"])


def test_a_file_that_holds_objects_of_other_kinds_is_not_opened(tmp_path):
    run = small_run()
    torch.save(vars(run.initial_state()) | {"memory": tmp_path}, tmp_path / "state.pt")
    with pytest.raises(DamagedFile, match="UnpicklingError"):
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
        if not isinstance(value := getattr(first, field.name), (str, int, float, tuple))
    }
    learn_task(run, first)
    assert_bit_equal(dataclasses.replace(first, **copies), first)


def test_a_loaded_state_has_its_records_on_the_cpu_and_the_rest_on_the_device(tmp_path):
    state = learn_task(run := small_run("lwf"), run.initial_state())
    state.save(tmp_path / "state.pt")
    loaded = TrialState.load(tmp_path / "state.pt", run.fingerprint, torch.device("meta"))
    assert {t.device.type for t in loaded.params.values()} == {"meta"}
    assert {loaded.accuracy.device.type, loaded.curve.device.type, loaded.epochs.device.type} == {"cpu"}


# --- between processes ---


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "settings"), CASES[1::4])
def test_going_on_from_a_packed_state_is_going_straight_through_bit_for_bit(algorithm, settings):
    run = small_run(algorithm, seeds=(0, 1), **settings)
    first = learn_task(run, run.initial_state())
    unpacked = TrialState.unpacked(first.packed(), run.fingerprint, CPU)
    assert_bit_equal(unpacked, first)
    assert unpacked.seconds == first.seconds > 0
    assert_bit_equal(learn_sequence(run, unpacked), learn_sequence(run, first))


def test_a_file_holds_the_packed_state(tmp_path):
    run = small_run("lwf_ewc")
    state = learn_task(run, run.initial_state())
    (tmp_path / "packed.pt").write_bytes(state.packed())
    assert_bit_equal(TrialState.load(tmp_path / "packed.pt", run.fingerprint, CPU), state)
    state.save(tmp_path / "saved.pt")
    assert_bit_equal(TrialState.unpacked(read_checked(tmp_path / "saved.pt"), run.fingerprint, CPU), state)


def test_what_is_packed_does_not_change_with_what_is_learned_later():
    run = small_run("ewc", momentum=0.9, optimizer_state="keep")
    first = learn_task(run, run.initial_state())
    packed = first.packed()
    learn_sequence(run, first)
    assert_bit_equal(TrialState.unpacked(packed, run.fingerprint, CPU), first)


def test_a_packed_state_of_another_configuration_is_refused():
    run, other = small_run("ewc", seeds=(0, 1)), small_run("ewc", seeds=(0, 1), penalty_factor=2.0)
    packed = run.initial_state().packed()
    told = f"must belong to this configuration and these seeds; its fingerprint is {run.fingerprint}, not "
    with pytest.raises(ValueError, match=f"^state: {told}{other.fingerprint}$"):
        TrialState.unpacked(packed, other.fingerprint, CPU)
    with pytest.raises(ValueError, match=f"^there: {told}"):
        TrialState.unpacked(packed, other.fingerprint, CPU, Path("there"))


@pytest.mark.parametrize("sequence", [None, (1, 2), (2, 3), (1, 2, 3)])
def test_a_state_of_other_tasks_is_refused(sequence):
    ours, theirs = (build_trial(small_config("lwf"), [0], sequence=s) for s in ((1, 3), sequence))
    packed = learn_task(theirs, theirs.initial_state()).packed()
    with pytest.raises(ValueError, match=f"{theirs.fingerprint}, not {ours.fingerprint}"):
        TrialState.unpacked(packed, ours.fingerprint, CPU)


def test_packed_objects_of_other_kinds_are_not_unpacked(tmp_path):
    run = small_run()
    packed = dataclasses.replace(run.initial_state(), memory=tmp_path).packed()
    with pytest.raises(DamagedFile, match="UnpicklingError"):
        TrialState.unpacked(packed, run.fingerprint, CPU)


def test_an_unpacked_state_has_its_records_on_the_cpu_and_the_rest_on_the_device():
    state = learn_task(run := small_run("lwf"), run.initial_state())
    unpacked = TrialState.unpacked(state.packed(), run.fingerprint, torch.device("meta"))
    for part in (unpacked.params, unpacked.memory):
        assert {t.device.type for t in part.values()} == {"meta"}
    assert {unpacked.accuracy.device.type, unpacked.curve.device.type, unpacked.epochs.device.type} == {"cpu"}
