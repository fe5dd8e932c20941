"""Saving, loading and going on."""

import dataclasses
import io
import os
from pathlib import Path

import pytest
import torch

from clsearch.common.checked_files import DamagedFile, header_of, read_checked
from clsearch.common.files import previous_path
from clsearch.training.loop import learn_sequence, learn_task
from clsearch.training.state import ForeignState, TrialState, load_latest
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


# --- damage ---


def spoiled(content: dict, **changes: object) -> bytes:
    """A state with other fields, whole for torch; None removes a field."""
    changed = {name: value for name, value in {**content, **changes}.items() if value is not None}
    torch.save(changed, buffer := io.BytesIO())
    return buffer.getvalue()


DAMAGES = {
    "empty": lambda whole, content: b"",
    "cut": lambda whole, content: whole[: len(whole) // 2],
    "garbage": lambda whole, content: b"no state" * 100,
    "one bit": lambda whole, content: whole[:999] + bytes([whole[999] ^ 4]) + whole[1000:],
    "one bit, without a digest": lambda whole, content: _flip_in_tensor(spoiled(content)),
    "a list": lambda whole, content: spoiled_list(),
    "a key too few": lambda whole, content: spoiled(content, params=None),
    "a key too many": lambda whole, content: spoiled(content, more=1),
    "wrong type": lambda whole, content: spoiled(content, tasks_learned="2"),
    "no tensors": lambda whole, content: spoiled(content, memory={"teacher": 1.0}),
    "wrong shape": lambda whole, content: spoiled(content, params={n: v[:, :1] for n, v in content["params"].items()}),
    "other names": lambda whole, content: spoiled(content, params={}),
    "NaN": lambda whole, content: spoiled(content, params={n: v * torch.nan for n, v in content["params"].items()}),
    "other tasks": lambda whole, content: spoiled(content, tasks_learned=7),
    "whole, with a header": lambda whole, content: header_of(b"x") + b"x",
}


def spoiled_list() -> bytes:
    torch.save([1, 2], buffer := io.BytesIO())
    return buffer.getvalue()


def _flip_in_tensor(whole: bytes) -> bytes:
    """A file of 0.1 in which one bit of a parameter is another."""
    place = whole.index(b"/data/0") + 300
    return whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_state_is_passed_over_for_the_one_before_it(tmp_path, kind):
    run = small_run("lwf", seeds=(0, 1))
    path, fresh = tmp_path / "state.pt", run.initial_state()
    first = learn_task(run, fresh)
    second = learn_task(run, first)
    assert load_latest(path, fresh, 3, CPU) == (None, [])
    first.save(path)
    second.save(path)
    assert_bit_equal(load_latest(path, fresh, 3, CPU)[0], second)
    path.write_bytes(DAMAGES[kind](path.read_bytes(), vars(second)))
    found, problems = load_latest(path, fresh, 3, CPU)
    assert_bit_equal(found, first)
    assert len(problems) == 1
    assert problems[0].startswith("state.pt: ")
    assert_bit_equal(load_latest(path, fresh, 3, CPU)[0], first)  # which is the newest now
    path.write_bytes(DAMAGES[kind](path.read_bytes(), vars(second)))
    assert load_latest(path, fresh, 3, CPU) == (None, problems)


def test_a_process_that_was_killed_between_two_renames_leaves_the_state_before(tmp_path):
    run = small_run()
    path, fresh = tmp_path / "state.pt", run.initial_state()
    first = learn_task(run, fresh)
    first.save(path)
    path.rename(previous_path(path))
    found, problems = load_latest(path, fresh, 3, CPU)
    assert_bit_equal(found, first)
    assert problems == []
    assert path.exists()  # a worker whose state is removed drops out


def test_a_folder_in_the_place_of_a_state_is_damage_and_stays(tmp_path):
    run = small_run()
    path, fresh = tmp_path / "state.pt", run.initial_state()
    path.mkdir()
    assert load_latest(path, fresh, 3, CPU) == (None, ["state.pt: a folder"])
    learn_task(run, fresh).save(path)
    assert load_latest(path, fresh, 3, CPU)[0].tasks_learned == 1
    assert (tmp_path / "state.pt.damaged").is_dir()


def test_a_state_of_another_trial_is_damage_where_the_file_is_the_trials_own(tmp_path):
    run, other = small_run(), small_run(seeds=(1,))
    learn_task(other, other.initial_state()).save(tmp_path / "state.pt")
    with pytest.raises(ForeignState):
        load_latest(tmp_path / "state.pt", run.initial_state(), 3, CPU)
    found = load_latest(tmp_path / "state.pt", run.initial_state(), 3, CPU, foreign=True)
    assert found == (None, ["state.pt: a state of another configuration or other seeds"])


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "settings"), CASES)
def test_no_whole_state_is_taken_for_a_damaged_one(algorithm, settings, tmp_path):
    run = small_run(algorithm, seeds=(0, 1), **settings)
    state = fresh = run.initial_state()
    for _ in run.benchmark.tasks:
        state = learn_task(run, state)
        state.save(tmp_path / "state.pt")
        found, problems = load_latest(tmp_path / "state.pt", fresh, 3, CPU)
        assert problems == []
        assert_bit_equal(found, state)
