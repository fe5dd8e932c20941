"""The first task, taken over from another trial: nothing changes but the time that it takes."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clsearch.common.checked_files import header_of, read_checked
from clsearch.methods.base import PenaltyOutput
from clsearch.methods.registry import register
from clsearch.training.first_task_cache import UNUSED_SECONDS, cache_key, code_digest, remove_unused
from clsearch.training.loop import learn_sequence
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import TrialSetup
from tests.helpers import pairs, small_config, small_run

pytestmark = pytest.mark.slow

KINDS = ("params", "moments", "memory", "updates", "unlearning")


def run_of(folder: Path, algorithm: str = "lwf", **settings: object) -> TrialSetup:
    return replace(small_run(algorithm, (3, 5), **settings), prefixes=folder)


def assert_equal(one: TrialState, other: TrialState) -> None:
    """Bit for bit, but for the time that it took."""
    for kind in KINDS:
        own, others = getattr(one, kind), getattr(other, kind)
        assert own.keys() == others.keys()
        assert all(torch.equal(own[name], others[name]) or own[name].isnan().any() for name in own), kind
    for name in ("accuracy", "curve"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(one.epochs, other.epochs)


OPTIMIZERS = [
    {},
    {"momentum": 0.7, "optimizer_state": "keep"},
    {"optimizer": "adam", "learning_rate": 0.01, "optimizer_state": "keep", "schedule": "cosine"},
]


@pytest.mark.parametrize(
    ("algorithm", "scenario", "optimizer"),
    pairs(["finetuning", "lwf", "ewc", "lwf_ewc", "amnesiac_lwf"], ["task", "domain", "class"], OPTIMIZERS),
)
def test_a_trial_that_takes_the_first_task_over_equals_one_that_does_not_bit_for_bit(
    tmp_path, algorithm, scenario, optimizer
):
    settings = {"scenario": scenario, **optimizer} | ({"benchmark": "permuted-digits"} if scenario == "domain" else {})
    alone = learn_sequence(small_run(algorithm, (3, 5), **settings))
    first = learn_sequence(run_of(tmp_path, algorithm, **settings))
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    second = learn_sequence(run_of(tmp_path, algorithm, **settings))
    assert (alone.shared, first.shared) == (0, 0)
    assert second.shared > 0
    assert file.read_bytes() == before
    assert_equal(first, alone)
    assert_equal(second, alone)


@pytest.mark.parametrize("taker", ["finetuning", "lwf", "ewc", "lwf_ewc", "amnesiac_finetuning"])
@pytest.mark.parametrize("giver", ["finetuning", "lwf", "ewc"])
def test_algorithms_take_over_from_each_other_whatever_their_own_settings(tmp_path, giver, taker):
    """Class-incremental, members of unequal size: what the giver logs that the taker does not, and the reverse."""
    common = {"scenario": "class", "class_order": "shuffled", "epochs": 2}
    own = {
        "lwf": {"distillation_factor": 7.0, "distillation_temperature": 0.5, "teachers": "per_task"},
        "ewc": {"penalty_factor": 30.0, "penalty_p_norm": 1.5, "fisher": "exact"},
    }
    learn_sequence(run_of(tmp_path, giver, **common, **own.get(giver, {})))
    taken = learn_sequence(run_of(tmp_path, taker, **common))
    assert taken.shared > 0
    assert_equal(taken, learn_sequence(small_run(taker, (3, 5), **common)))


def test_a_member_whose_steps_were_over_has_no_later_row_in_what_is_taken_over(tmp_path):
    common = {"benchmark": "permuted-digits", "tasks": 2, "iterations": 3, "batch_size": 700}
    learn_sequence(run_of(tmp_path, "finetuning", **common))
    taken = learn_sequence(run_of(tmp_path, "lwf", **common))
    assert_equal(taken, learn_sequence(small_run("lwf", (3, 5), **common)))


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.2},
        {"batch_size": 32},
        {"hidden": (13,)},
        {"epochs": 3},
        {"scenario": "class"},
        {"tasks": 4},
        {"class_order": "shuffled"},
        {"random_crop": 1},
        {"optimizer": "adam"},
        {"momentum": 0.5},
        {"schedule": "cosine"},
        {"backbone": "cnn"},
        {"precision": "bfloat16"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_acts_in_the_first_task_has_a_file_of_its_own(tmp_path, settings):
    assert cache_key(run_of(tmp_path, **settings)) != cache_key(run_of(tmp_path))


def test_what_does_not_act_has_not(tmp_path):
    plain = cache_key(run_of(tmp_path))
    assert cache_key(run_of(tmp_path, distillation_factor=9.0, distance="kl")) == plain
    assert cache_key(run_of(tmp_path, "ewc", fisher="batch")) == plain
    assert cache_key(run_of(tmp_path, "finetuning")) == plain


def test_seeds_tasks_data_code_and_threads_are_in_its_name(tmp_path, monkeypatch):
    plain = run_of(tmp_path)
    names = {cache_key(plain)}
    names.add(cache_key(small_run("lwf", (3,))))
    names.add(cache_key(small_run("lwf", (5, 3))))
    names.add(cache_key(small_run("lwf", (3, 5), sequence=(2, 3))))
    first, *others = plain.benchmark.tasks
    changed = replace(first, train=replace(first.train, inputs=first.train.inputs.flip(0)))
    names.add(cache_key(replace(plain, benchmark=replace(plain.benchmark, tasks=(changed, *others)))))
    torch.set_num_threads(2)
    names.add(cache_key(plain))
    torch.set_num_threads(1)
    monkeypatch.setattr("clsearch.training.first_task_cache.code_digest", lambda: "other")
    names.add(cache_key(plain))
    assert len(names) == 7
    assert len(code_digest()) == 64


@pytest.mark.parametrize("algorithm", ["joint", "independent"])
def test_other_courses_take_nothing_over_and_leave_nothing(tmp_path, algorithm):
    learn_sequence(run_of(tmp_path, algorithm))
    assert not list(tmp_path.iterdir())


class FromTheFirstStep:
    logs = ()
    trains_head = False

    def prepare(self, network, benchmark, task, memory, hyperparameters):
        factor = hyperparameters["penalty_factor"]
        return lambda student, batch: PenaltyOutput(factor * student.params["head.bias"].square().sum((1, 2)))

    def remember(self, network, benchmark, task, params, memory):
        return memory


def test_an_algorithm_of_the_users_own_may_act_in_the_first_task(tmp_path):
    register("from_the_first_step", lambda config: FromTheFirstStep(), settings=["penalty_factor"])
    learn_sequence(run_of(tmp_path, "from_the_first_step", penalty_factor=3.0))
    assert not list(tmp_path.iterdir())


def test_a_network_of_the_users_own_is_trained_by_each(tmp_path):
    def backbone(shape):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))

    run = small_run("lwf", (3, 5), backbone=backbone, hidden=None)
    learn_sequence(replace(run, prefixes=tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_whole_is_trained_and_written_anew(tmp_path):
    expected = learn_sequence(run_of(tmp_path))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    content = torch.load(io.BytesIO(read_checked(file)), weights_only=True)

    def packed(content: object) -> bytes:
        torch.save(content, buffer := io.BytesIO())
        return header_of(buffer.getvalue()) + buffer.getvalue()

    def without(name: str) -> bytes:
        return packed({key: value for key, value in content.items() if key != name})

    def changed(change: Callable[[torch.Tensor], torch.Tensor], kind: str = "params") -> bytes:
        return packed(content | {kind: {name: change(value) for name, value in content[kind].items()}})

    broken = [b"", whole[: len(whole) // 2], b"no file of torch's", whole[:2000] + b"?" + whole[2001:]]
    broken += [packed([1]), packed(content["curve"]), *map(without, content)]
    broken += [changed(lambda value: value[:1]), changed(lambda value: value * torch.nan), changed(torch.Tensor.double)]
    broken += [packed(content | {"curve": content["curve"][:0]}), packed(content | {"epochs": content["epochs"][:1]})]
    broken += [packed(content | {"columns": ["loss"]}), packed(content | {"seconds": "long"})]
    broken += [packed(content | {"params": {}}), packed(content | {"moments": {"velocity": 1}})]
    for damaged in broken:
        file.write_bytes(damaged)
        said: list[str] = []
        found = learn_sequence(replace(run_of(tmp_path), tell=said.append))
        assert found.shared == 0
        assert len(said) == 1, said
        assert said[0].startswith("the first task that trials share was trained again: ")
        assert str(file) in said[0]
        assert_equal(found, expected)
        assert learn_sequence(replace(run_of(tmp_path), tell=said.append)).shared > 0
        assert len(said) == 1
    file.unlink()
    file.mkdir()
    assert_equal(learn_sequence(run_of(tmp_path)), expected)
    assert learn_sequence(run_of(tmp_path)).shared > 0


def test_a_folder_that_cannot_be_made_costs_the_sharing_alone(tmp_path):
    (tmp_path / "file").touch()
    found = learn_sequence(run_of(tmp_path / "file" / "below"))
    assert_equal(found, learn_sequence(small_run("lwf", (3, 5))))


def test_what_is_taken_over_is_kept_in_a_state(tmp_path):
    learn_sequence(run_of(tmp_path))
    run = run_of(tmp_path)
    state = learn_sequence(run)
    assert TrialState.unpacked(state.packed(), run.fingerprint, run.device).shared == state.shared > 0


def test_files_that_nobody_takes_over_for_a_day_are_removed(tmp_path):
    learn_sequence(run_of(tmp_path))
    learn_sequence(run_of(tmp_path, batch_size=32))
    used, unused = (tmp_path / f"{cache_key(run_of(tmp_path, **own))}.pt" for own in ({}, {"batch_size": 32}))
    old = time.time() - UNUSED_SECONDS - 60
    for path in (used, unused):
        os.utime(path, (old, old))
    learn_sequence(run_of(tmp_path, distillation_factor=3.0))  # takes the first over
    remove_unused(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [used.name]
    remove_unused(tmp_path / "none")


def test_configurations_are_compared_as_they_are_validated(tmp_path):
    assert small_config("lwf").flat()["hidden"] == [12]
    assert cache_key(run_of(tmp_path, hidden=[12])) == cache_key(run_of(tmp_path, hidden=(12,)))
