"""Configurations that train together: each as it would alone, whatever becomes of the others."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from clsearch.config.trial import TrialConfig
from clsearch.training.cohorts import initial_states, learn_together
from clsearch.training.loop import DivergedError, learn_sequence
from clsearch.training.retraining import retrain
from clsearch.training.state import TrialState, split_state, stack_states
from clsearch.training.trial_setup import TrialSetup, build_trial, build_trials
from tests.helpers import assert_bit_equal, in_double, small_config

pytestmark = pytest.mark.slow

SEEDS = (3, 0)
VALUES = {
    "finetuning": {"learning_rate": (0.01, 0.1, 0.2)},
    "joint": {"learning_rate": (0.01, 0.1, 0.2)},
    "independent": {"learning_rate": (0.01, 0.1, 0.2)},
    "lwf": {"distillation_factor": (0.1, 1.0, 4.0), "distillation_temperature": (0.5, 2.0, 1.0)},
    "ewc": {"penalty_factor": (0.5, 5.0, 30.0), "penalty_p_norm": (1.5, 2.0, 3.0)},
    "lwf_ewc": {"distillation_factor": (0.1, 1.0, 4.0), "penalty_factor": (0.5, 5.0, 30.0)},
    "amnesiac_lwf": {"distillation_factor": (0.1, 1.0, 4.0)},
    "amnesiac_ewc": {"penalty_factor": (0.5, 5.0, 30.0)},
}
"""Algorithm -> what its configurations differ in."""

STRUCTURES = [
    {"scenario": "task", "epochs": 1, "optimizer": "adam", "learning_rate": 0.005},
    {
        "scenario": "domain",
        "benchmark": "permuted-digits",
        "iterations": 6,
        "momentum": 0.5,
        "optimizer_state": "keep",
    },
    {"scenario": "class", "class_order": "shuffled", "classes_per_task": (2, 3, 5), "iterations": 9},
    {"scenario": "task", "epochs": 1, "schedule": "cosine", "random_crop": 1, "horizontal_flip": True},
]


@pytest.fixture
def double_precision():
    """So that what is compared is not rounding, of which unstable training makes much."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def configs_of(algorithm: str, **settings: object) -> list[TrialConfig]:
    names = VALUES[algorithm]
    return [
        small_config(algorithm, **settings | dict(zip(names, own, strict=True)))
        for own in zip(*names.values(), strict=True)
    ]


def prepared(run: TrialSetup) -> TrialSetup:
    """In the precision of the test; with what unlearning is measured against."""
    if torch.get_default_dtype() == torch.float64:
        run = replace(run, benchmark=in_double(run.benchmark))
    return run


def all_learned(configs: Sequence[TrialConfig], build=build_trials) -> list[TrialState]:
    run = prepared(build(configs, SEEDS))
    states = initial_states(run, configs)
    while states[0].tasks_learned < len(run.benchmark.tasks):
        states = learn_together(run, states)
    return states


def alone(config: TrialConfig) -> TrialState:
    return learn_sequence(prepared(build_trial(config, SEEDS)))


def assert_equal(one: TrialState, other: TrialState, rtol: float = 1e-7, atol: float = 1e-9) -> None:
    for kind in ("params", "moments", "memory", "updates"):
        own, others = getattr(one, kind), getattr(other, kind)
        assert own.keys() == others.keys()
        for name in own:
            torch.testing.assert_close(own[name], others[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(one.curve, other.curve, rtol=max(rtol, 1e-4), atol=max(atol, 1e-6), equal_nan=True)
    torch.testing.assert_close(one.accuracy, other.accuracy, rtol=0, atol=1e-12, equal_nan=True)
    assert (one.fingerprint, one.tasks_learned) == (other.fingerprint, other.tasks_learned)
    assert torch.equal(one.epochs, other.epochs)


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda settings: settings["scenario"])
@pytest.mark.parametrize("algorithm", VALUES)
def test_configurations_train_together_as_each_would_alone(double_precision, algorithm, structure):
    if (algorithm, structure["scenario"]) == ("independent", "class"):
        structure = STRUCTURES[0]
    requests = {"unlearn": ("2:1", "3:3")} if algorithm.startswith("amnesiac") else {}
    configs = configs_of(algorithm, **structure | requests)
    for config, found in zip(configs, all_learned(configs), strict=True):
        assert_equal(found, alone(config))


@pytest.mark.parametrize("algorithm", ["finetuning", "lwf", "ewc", "lwf_ewc"])
def test_single_precision_agrees_within_1e_5(algorithm):
    configs = configs_of(algorithm, epochs=1)
    for config, found in zip(configs, all_learned(configs), strict=True):
        assert_equal(found, alone(config), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("place", "backbone"), [(0, None), (1, None), (2, None), (1, "cnn")])
def test_one_that_diverges_is_named_and_the_others_are_not_touched(double_precision, place, backbone):
    """Its penalty acts from task 2 on; the labels that Fisher information is sampled with need finite outputs."""
    few = {"hidden": (6,), "iterations": 8, "batch_size": 8, "fisher_samples": 8}  # a step of a CNN takes long
    more = {"fisher": "sampled", "batch_size": 64} | ({} if backbone is None else {"backbone": backbone} | few)
    configs = configs_of("ewc", **more)
    configs[place] = small_config("ewc", penalty_factor=1e37, **more)
    run = prepared(build_trials(configs, SEEDS))
    first = learn_together(run, initial_states(run, configs))
    assert all(state.tasks_learned == 1 for state in first)
    found = learn_together(run, first)
    error = found.pop(place)
    assert isinstance(error, DivergedError)
    with pytest.raises(DivergedError) as own:
        alone(configs[place])
    assert str(error) == str(own.value)
    assert str(error).startswith("training diverged in epoch 1 of task 2 ")
    rest = [config for config in configs if config is not configs[place]]
    run = prepared(build_trials(rest, SEEDS))
    for config, state in zip(rest, learn_together(run, found), strict=True):
        assert_equal(state, alone(config))


def test_seeds_that_diverged_are_those_of_their_configuration():
    configs = [small_config("finetuning", learning_rate=rate) for rate in (0.1, 1e30)]
    run = build_trials(configs, SEEDS)
    kept, lost = learn_together(run, initial_states(run, configs))
    assert_bit_equal(
        kept,
        learn_sequence(build_trial(configs[0], SEEDS, sequence=(1,))),
        but=("fingerprint", "accuracy"),
    )
    assert str(lost) == "training diverged in epoch 1 of task 1 (loss or parameters not finite; seeds 3, 0)"


def test_where_all_diverge_training_ends_and_each_has_its_own_reason(monkeypatch):
    configs = [small_config("finetuning", learning_rate=rate) for rate in (1e30, 1e31)]
    run, steps = build_trials(configs, SEEDS), itertools.count()
    from clsearch.training import loop

    step = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *args: (next(steps), step(*args))[1])
    found = learn_together(run, initial_states(run, configs))
    assert [str(error).partition(" (")[0] for error in found] == ["training diverged in epoch 1 of task 1"] * 2
    assert next(steps) <= loop.CHECK_STEPS


@pytest.mark.parametrize("algorithm", ["lwf", "ewc", "amnesiac_lwf"])
def test_the_first_task_is_trained_once_for_all_of_them_and_left_for_others(tmp_path, algorithm):
    configs = configs_of(algorithm)

    def sharing(*of) -> TrialSetup:
        return replace(build_trials(*of), prefixes=tmp_path)

    found = all_learned(configs, sharing)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    assert [state.shared for state in found] == [0.0] * 3
    again = all_learned(configs[1:], sharing)  # the file of a configuration alone, whatever the cohort
    assert all(state.shared > 0 for state in again)
    one = learn_sequence(replace(build_trial(configs[0], SEEDS), prefixes=tmp_path))
    assert one.shared > 0
    assert file.read_bytes() == before
    assert_bit_equal(one, alone(configs[0]), but=("shared",))
    for config, state in zip((*configs, *configs[1:]), (*found, *again), strict=True):
        assert_equal(state, alone(config), rtol=0, atol=1e-5)


def test_where_the_shared_first_task_diverges_it_does_for_all(tmp_path):
    configs = configs_of("lwf", learning_rate=1e30)
    run = replace(build_trials(configs, SEEDS), prefixes=tmp_path)
    found = learn_together(run, initial_states(run, configs))
    assert [type(error) for error in found] == [DivergedError] * 3
    assert not list(tmp_path.iterdir())


def test_configurations_of_several_learning_rates_share_no_first_task(tmp_path):
    configs = configs_of("finetuning")
    found = all_learned(configs, lambda *of: replace(build_trials(*of), prefixes=tmp_path))
    assert not list(tmp_path.iterdir())
    for config, state in zip(configs, found, strict=True):
        assert_equal(state, alone(config), rtol=0, atol=1e-5)


def test_distances_of_unlearning_are_each_configurations_own():
    configs = configs_of("amnesiac_lwf", unlearn=("2:1",))
    references = retrain(configs[0], SEEDS)

    def measured(of: Sequence[TrialConfig], seeds: Sequence[int]) -> TrialSetup:
        repeated = {
            at: {name: torch.cat([value] * len(of)) for name, value in own.items()} for at, own in references.items()
        }
        return replace(build_trials(of, seeds), references=repeated)

    for config, state in zip(configs, all_learned(configs, measured), strict=True):
        expected = learn_sequence(measured([config], SEEDS)).unlearning
        assert state.unlearning.keys() == expected.keys()
        assert not expected["distance"][:, 2].isnan().all()
        for name, value in expected.items():
            torch.testing.assert_close(state.unlearning[name], value, rtol=0, atol=1e-5, equal_nan=True)


def test_states_that_are_put_together_come_apart_as_they_were_with_their_share_of_the_time():
    configs = configs_of("lwf_ewc")
    states = [replace(alone(config), seconds=10.0 * n, shared=float(n)) for n, config in enumerate(configs, 1)]
    for own, back in zip(states, split_state(replace(stack_states(states), seconds=6.0), states), strict=True):
        assert_bit_equal(back, own)
        assert back.seconds == own.seconds + 2.0
        assert all(value.untyped_storage().nbytes() == value.nbytes for value in back.params.values())


NUMBERS = [
    ("finetuning", {}, {"momentum": (0.5, 0.9, 0.3), "weight_decay": (0.0, 0.01, 0.1)}),
    ("finetuning", {"optimizer_state": "keep"}, {"learning_rate": (0.05, 0.1, 0.2), "momentum": (0.5, 0.9, 0.3)}),
    ("lwf", {"optimizer": "adam", "learning_rate": 0.005}, {"weight_decay": (0.1, 0.0, 0.01)}),
    ("lwf", {"optimizer": "adamw", "learning_rate": 0.005}, {"weight_decay": (0.5, 0.0, 0.1)}),
    ("finetuning", {"schedule": "step"}, {"decay": (0.1, 0.5, 0.3), "warmup": (0.2, 0.1, 0.4)}),
    ("joint", {"schedule": "cosine", "scenario": "domain", "tasks": 5}, {"warmup": (0.2, 0.1, 0.4)}),
    ("ewc", {"anchors": "online", "penalty_factor": 20.0}, {"gamma": (0.0, 0.5, 1.0), "momentum": (0.5, 0.2, 0.1)}),
]
"""Algorithm, settings that all have -> what its configurations differ in, beside what is searched by default."""


@pytest.mark.parametrize(("algorithm", "shared", "values"), NUMBERS)
def test_members_differ_in_any_number_and_train_as_each_would_alone(double_precision, algorithm, shared, values):
    configs = [
        small_config(algorithm, **shared | dict(zip(values, own, strict=True)))
        for own in zip(*values.values(), strict=True)
    ]
    found, expected = all_learned(configs), [alone(config) for config in configs]
    for own, other in zip(found, expected, strict=True):
        assert_equal(own, other)
    name = "backbone.0.weight"
    assert not torch.equal(expected[0].params[name], expected[1].params[name])


def test_numbers_that_all_members_share_are_plain_and_others_are_one_per_member():
    configs = [small_config(momentum=momentum, weight_decay=0.01) for momentum in (0.5, 0.9)]
    optimizer = build_trials(configs, SEEDS).optimizer
    assert optimizer.weight_decay == 0.01
    assert optimizer.momentum.tolist() == pytest.approx([0.5, 0.5, 0.9, 0.9])
    assert build_trials(configs[:1] * 2, SEEDS).optimizer == build_trial(configs[0], SEEDS).optimizer
    assert build_trials(configs, SEEDS).first_configuration.optimizer == build_trial(configs[0], SEEDS).optimizer


def test_a_first_task_is_not_shared_where_another_number_than_the_learning_rate_differs(tmp_path):
    configs = [small_config(weight_decay=value) for value in (0.1, 0.5)]
    all_learned(configs, lambda *of: replace(build_trials(*of), prefixes=tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change", [{"hidden": (13,)}, {"epochs": 3}, {"fisher": "exact"}, {"momentum": 0.5}, {"warmup": 0.1}]
)
def test_configurations_that_differ_in_what_a_step_does_cannot_train_together(change):
    with pytest.raises(ValueError, match=f"must have the same {next(iter(change))}"):
        build_trials([small_config("ewc"), small_config("ewc", **change)], SEEDS)
    with pytest.raises(ValueError, match="must have the same algorithm"):
        build_trials([small_config("finetuning"), small_config("joint")], SEEDS)
