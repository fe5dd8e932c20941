"""Check by training on a small part of the first two tasks that each searched hyperparameter acts."""

import itertools
import math
import re
import runpy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from clsearch import Choice, IntRange, LogRange, Method, Range, When, register
from clsearch.common.errors import ConfigError, Refusal
from clsearch.config.spaces import SearchSpace
from clsearch.data.datasets import read_data, training_data
from clsearch.execution.sensitivity import (
    MIN_RELATIVE_EFFECT,
    SensitivityProbe,
    check_sensitivity,
    sensitivity,
    value_pairs,
)
from clsearch.methods.registry import BUILT_IN, configure
from clsearch.tasks.benchmark import shrink
from clsearch.training.loop import learn_sequence
from clsearch.training.trial_setup import build_trial
from tests.builders import SMALL_SPACES, STUDIES, plan_of, planned, study_of, write_images
from tests.helpers import in_turn, write_mnist

pytestmark = pytest.mark.slow

SURE = {"tasks": 5, "hidden": (64,), "optimizer": "adam", "learning_rate": 0.5, "fisher_samples": 10}
"""Learns task 1 so surely that each squared gradient of ten samples of it is 0 in single precision."""
TOO_FAST = {"learning_rate": 1e30}


def data_of(plan):
    """Read the data as `load` does, once per process."""
    return training_data(plan.config.source, plan.config.data_root)


def checked(plan):
    check_sensitivity(plan, data_of(plan))


def learned(plan, values, long=False):
    """Learn two tasks with a new probe."""
    return SensitivityProbe(plan, data_of(plan)).outcome(values, long)


def problems(plan):
    """Return the refusals of the check, by hyperparameter."""
    with pytest.raises(ConfigError) as refused:
        checked(plan)
    return {problem.field: problem for problem in refused.value.problems}


def other_values(plan, name):
    """Where the others stand while the ends of one are compared."""
    (part,) = (part for part in plan.space.parts if part.name == name)
    pairs = value_pairs(plan, part, *part.domain.ends)
    return [{other: value for other, value in first.items() if other != name} for first, _ in pairs]


# What acts


@pytest.mark.parametrize(("path", "scenario"), in_turn(STUDIES, ["task", "domain", "class"]))
def test_all_that_a_script_searches_acts(path, scenario, tmp_path):
    study = runpy.run_path(str(path))["study"]
    plan = planned(study, "--scenario", scenario, "--results", str(tmp_path), "--references", "finetuning")
    assert plan.config.scenario == scenario
    checked(plan)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_the_default_ranges_of_every_algorithm_act_in_every_scenario(algorithm, scenario):
    if (algorithm, scenario) != ("independent", "class"):
        requests = {"unlearn": ("2:2",)} if algorithm.startswith("amnesiac") else {}  # which would undo task 2
        checked(study_of(algorithm, space=None, scenario=scenario, tasks=5, **requests).plan)


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("ewc", {"fisher": "batch"}),
        ("ewc", {"fisher": "exact", "fisher_scale": "unit_trace"}),
        ("ewc", {"fisher": "sampled", "fisher_samples": 20}),
        ("ewc", {"anchors": "online", "gamma": 0.5}),
        ("ewc", {"average_over_tasks": True}),
        ("ewc", {"preset": "clarena-first"}),
        ("ewc", {"iterations": 3}),
        ("ewc", {"benchmark": "permuted-digits", "batch_size": 2000}),
        ("lwf", {"distance": "kl", "temperature_scaling": "squared"}),
        ("lwf", {"distance": "mse"}),
        ("lwf", {"tasks": 3, "classes_per_task": (4, 2, 3), "class_order": "shuffled"}),
        ("lwf_ewc", {"scenario": "class", "teachers": "per_task", "train_head": False}),
    ],
)
def test_the_default_ranges_act_with_other_settings(algorithm, settings):
    checked(study_of(algorithm, space=None, **settings).plan)


@pytest.mark.parametrize("name", ["learning_rate", "penalty_factor"])
def test_a_range_of_which_one_end_diverges_acts(name):
    space = {"learning_rate": LogRange(1e-3, 1e30), "penalty_factor": LogRange(1e-2, 1e30)}
    checked(study_of("ewc", space={name: space[name]}).plan)


def test_where_nothing_is_searched_nothing_is_trained():
    checked(study_of("ewc", space={}, **TOO_FAST).plan)


def test_a_hyperparameter_that_acts_with_some_values_of_the_others_acts():
    # With the factor's strong end both exponents diverge, with its weak end both are lost in rounding.
    space = {"penalty_factor": LogRange(1e-30, 1e30), "penalty_p_norm": Range(1.5, 3)}
    plan = study_of("ewc", space=space).plan
    pairs = [
        [learned(plan, others | {"penalty_p_norm": p}) for p in (1.5, 3)]
        for others in other_values(plan, "penalty_p_norm")
    ]
    effects = [sensitivity(*pair) for pair in pairs]
    assert pairs[0] == [None, None]
    assert effects[0] == 0
    assert effects[1] > MIN_RELATIVE_EFFECT > effects[2]
    checked(plan)


# What does not act


@pytest.mark.parametrize(
    ("algorithm", "name", "values"),
    [
        ("ewc", "penalty_factor", LogRange(1e-12, 1e-10)),
        ("lwf", "distillation_factor", LogRange(1e-7, 1e-6)),
        ("lwf", "distillation_temperature", LogRange(1e5, 1e6)),
    ],
)
def test_a_range_too_small_to_act_is_refused_with_its_ends_its_effect_and_its_penalty(algorithm, name, values):
    plan = study_of(algorithm, space={name: values}).plan
    pairs = [tuple(learned(plan, {name: value}, long) for value in (values.low, values.high)) for long in (False, True)]
    found = problems(plan)
    assert set(found) == {name}
    said = re.fullmatch(
        rf"{name}: must act: the parameters after task 2 must differ between the ends of its range "
        rf"\(by 0\.0001 of what the task moves\); got (\S+) to (\S+), which differ by (\S+): "
        rf"the penalties together reached (\S+) at most; search another range",
        found[name],
    )
    assert said
    assert [float(said[1]), float(said[2])] == pytest.approx([values.low, values.high])
    moved = max(((high.params - low.params).norm() / max(low.moved, high.moved)).item() for low, high in pairs)
    assert float(said[3]) == pytest.approx(moved, rel=0.5)
    assert float(said[3]) < MIN_RELATIVE_EFFECT
    assert float(said[4]) == pytest.approx(max(outcome.penalty for pair in pairs for outcome in pair), rel=0.05)


def test_an_effect_that_grows_late_is_given_the_studys_own_length_to_show():
    space = {"penalty_factor": LogRange(0.01, 0.1)}
    settings = {"benchmark": "permuted-digits", "hidden": (64,), "optimizer": "adam", "learning_rate": 1e-4}
    plans = [
        study_of("ewc", space=space, penalty_p_norm=3, **(settings | {"epochs": n, "iterations": None})).plan
        for n in (1, 50)
    ]
    for plan in plans:
        low, high = (learned(plan, {"penalty_factor": value}) for value in (0.01, 0.1))
        assert sensitivity(low, high) < MIN_RELATIVE_EFFECT
    assert set(problems(plans[0])) == {"penalty_factor"}
    checked(plans[1])


def test_only_what_does_not_act_is_named():
    space = SMALL_SPACES["lwf_ewc"] | {"penalty_factor": LogRange(1e-12, 1e-10)}
    assert set(problems(study_of("lwf_ewc", space=space).plan)) == {"penalty_factor", "penalty_p_norm"}


def test_a_penalty_that_is_always_zero_is_refused_and_said_to_be():
    plan = study_of("ewc", **SURE).plan
    run = build_trial(configure("ewc", {**plan.settings, "tasks": 5, "epochs": 3}), [0])
    first = learn_sequence(replace(run, benchmark=replace(run.benchmark, tasks=run.benchmark.tasks[:1])))
    assert first.accuracy[0, 1, 0] == 1  # a configuration that trains, and could well be meant
    assert all((v == 0).all() for name, v in first.memory.items() if name.startswith("importance/"))
    found = problems(plan)
    assert set(found) == {"penalty_factor", "penalty_p_norm"}
    assert all("the penalty stayed 0, as it does if the stored importance of task 1 is 0" in p for p in found.values())
    assert "got 0.1 to 1000, which differ by 0:" in found["penalty_factor"]
    assert "got 1 to 3, which differ by 0:" in found["penalty_p_norm"]


def test_distillation_acts_where_the_importance_vanishes():
    found = problems(study_of("lwf_ewc", **SURE).plan)
    assert not {"distillation_factor", "distillation_temperature"} & set(found)


@pytest.mark.parametrize("algorithm", ["lwf", "ewc", "lwf_ewc"])
def test_training_that_diverges_at_both_ends_is_refused_and_said_to(algorithm):
    plan = study_of(algorithm, **TOO_FAST).plan
    found = problems(plan)
    assert set(found) == set(plan.space)
    for name, problem in found.items():
        r = plan.space[name]
        assert f"got {r.low:g} to {r.high:g}, and training diverged at both" in problem
        assert "smaller learning rate" in problem


def test_a_learning_rate_too_small_to_move_a_parameter_is_refused():
    (problem,) = problems(study_of("finetuning", space={"learning_rate": LogRange(1e-20, 1e-19)}).plan).values()
    assert problem.startswith("learning_rate: must act: ")
    assert "task 2 moved the parameters by 0 at most; search larger learning rates" in problem


def test_a_learning_rate_that_moves_a_parameter_in_the_first_task_alone_is_refused_too():
    plan = study_of("finetuning", space={"learning_rate": LogRange(1e-10 / 3, 1e-10)}).plan
    low, high = (learned(plan, {"learning_rate": rate}) for rate in (1e-10 / 3, 1e-10))
    assert low.moved == high.moved == 0
    assert not torch.equal(low.params, high.params)
    (problem,) = problems(plan).values()
    assert (problem.field, problem.rule) == ("learning_rate", "hyperparameter-acts")


def test_what_is_trained_is_the_studys_first_seed():
    values = {"penalty_factor": 1.0, "penalty_p_norm": 2.0}
    first, same, other = (
        learned(study_of("ewc", seeds=seeds, first_seed=seed).plan, values) for seeds, seed in ((2, 7), (1, 7), (2, 8))
    )
    assert torch.equal(first.params, same.params)
    assert not torch.equal(first.params, other.params)


# Names, whole numbers and conditions


def wide(shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), 16), torch.nn.ReLU())


def just_as_wide(shape):
    return wide(shape)


def bounded(shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), 16), torch.nn.Tanh())


WHOLE = [
    {
        "learning_rate": LogRange(1e-2, 0.5),
        "optimizer": Choice("sgd", "adam"),
        "epochs": IntRange(1, 4),
        "hidden": Choice((16,), (24, 12)),
        "distillation_factor": LogRange(1e-1, 10),
        "batch_size": Choice(16, 32, 64),
        "distance": Choice("cross_entropy", "mse"),
    },
    When("optimizer", "sgd", {"momentum": Range(0, 0.9), "weight_decay": LogRange(1e-4, 1e-1)}),
]


def test_names_whole_numbers_widths_and_what_applies_under_a_condition_act():
    checked(study_of("lwf", space=WHOLE, hidden=None).plan)


@pytest.mark.parametrize(
    ("algorithm", "space", "settings", "inert"),
    [
        ("lwf", {"backbone": Choice(wide, just_as_wide)}, {"hidden": None}, ["backbone"]),
        ("lwf", {"backbone": Choice(wide, bounded)}, {"hidden": None}, []),
        ("lwf", {"backbone": Choice(wide, bounded, just_as_wide)}, {"hidden": None}, ["backbone"]),
        ("finetuning", {"optimizer_state": Choice("reset", "keep")}, {}, ["optimizer_state"]),
        ("finetuning", {"optimizer_state": Choice("reset", "keep")}, {"momentum": 0.9}, []),
        ("lwf", {"distance": Choice("cross_entropy", "kl")}, {}, ["distance"]),  # the same gradient
        ("ewc", {"fisher": Choice("empirical", "exact")}, {"penalty_factor": 10.0}, []),
        # What acts with the second earlier task:
        ("lwf", {"teachers": Choice("per_task", "last")}, {"scenario": "class"}, []),
        ("ewc", {"anchors": Choice("separate", "online")}, {"penalty_factor": 10.0}, []),
        ("ewc", {"gamma": Range(0, 1)}, {"penalty_factor": 10.0, "anchors": "online"}, []),
        ("ewc", {"gamma": Range(0, 1)}, {"penalty_factor": 1e-9, "anchors": "online"}, ["gamma"]),
        (
            "finetuning",
            [{"optimizer": Choice("sgd", "adam")}, When("optimizer", "sgd", {"weight_decay": Range(1e-12, 1e-11)})],
            {},
            ["weight_decay"],
        ),
    ],
)
def test_a_choice_or_a_number_that_does_nothing_is_refused(algorithm, space, settings, inert):
    plan = study_of(algorithm, space=space, **settings).plan
    assert [*problems(plan)] == inert if inert else checked(plan) is None


def test_combinations_that_the_rules_refuse_are_not_what_is_compared():
    def rule(config):
        middle = 0.3 < config.momentum < 0.7
        return [Refusal("ends-only", f"momentum: must not be in the middle; got {config.momentum:g}")] if middle else []

    register(Method("picky", "Picky", parts=(BUILT_IN["lwf"],), rules=(rule,)))
    space = {"momentum": Range(0.1, 0.9), "distillation_factor": LogRange(1e-1, 10)}
    plan = study_of("picky", space=space).plan
    checked(plan)
    assert {*problems(study_of("picky", space=space | {"distillation_factor": LogRange(1e-9, 1e-8)}).plan)} == {
        "distillation_factor"
    }


# What it is made of


def test_an_effect_is_the_distance_as_a_share_of_what_the_task_moved():
    plan = study_of("ewc").plan
    some = learned(plan, {"penalty_factor": 1.0, "penalty_p_norm": 2.0})
    other = replace(some, params=some.params + 1, moved=3 * some.moved)
    expected = len(some.params) ** 0.5 / (3 * some.moved)
    assert sensitivity(some, other) == sensitivity(other, some) == pytest.approx(expected)
    assert sensitivity(some, some) == 0
    assert sensitivity(some, None) == sensitivity(None, some) == float("inf")
    assert sensitivity(None, None) == 0


def test_what_is_learned_is_two_tasks_as_the_study_trains_them():
    # 20 steps of 64 are more than one pass over a task of split-digits.
    plan = study_of("ewc", tasks=5, batch_size=64, optimizer="adam", learning_rate=0.01).plan
    values = {"penalty_factor": 3.0, "penalty_p_norm": 2.5}
    settings = plan.settings | values | {"epochs": None, "iterations": 20}
    run = build_trial(configure("ewc", settings), [0])
    assert -(-min(run.benchmark.tasks[0].train.sizes) // 64) == 4
    state = learn_sequence(replace(run, benchmark=replace(run.benchmark, tasks=run.benchmark.tasks[:2])))
    found = learned(plan, values)
    assert torch.equal(found.params, torch.cat([v.flatten().double() for v in state.params.values()]))
    rows = state.curve[state.epochs[:, 0] == 2, 0, run.columns.index("penalty")]
    assert found.penalty == rows.max().item()


def test_a_large_data_set_is_thinned(tmp_path):
    write_mnist(tmp_path, "train", per_class=300, seed=0)
    plan = plan_of(tmp_path, "ewc", benchmark="split-mnist", data_root=tmp_path, tasks=2, hidden=(16,))
    values = {"penalty_factor": 1.0, "penalty_p_norm": 2.0}
    found = learned(plan, values)
    run = build_trial(configure("ewc", plan.settings | values | {"epochs": None, "iterations": 20}), [0])
    small = shrink(run.benchmark, 2, 512)
    assert run.benchmark.tasks[0].train.sizes == (1350,)
    assert 10 * 32 < small.tasks[0].train.sizes[0] < 20 * 32  # one epoch is fewer than 20 steps
    state = learn_sequence(replace(run, benchmark=small))
    assert torch.equal(found.params, torch.cat([v.flatten().double() for v in state.params.values()]))


def test_others_stand_at_their_strong_end_first_then_between_then_opposite():
    plan = study_of("lwf_ewc").plan
    settings = other_values(plan, "distillation_factor")
    temperature = SMALL_SPACES["lwf"]["distillation_temperature"]
    factor = SMALL_SPACES["ewc"]["penalty_factor"]
    first, between, opposite = settings
    assert first == {
        "distillation_temperature": pytest.approx(temperature.points(3)[1]),
        "penalty_factor": factor.high,
        "penalty_p_norm": 1,
    }
    assert between["penalty_factor"] == pytest.approx(10)
    assert between["penalty_p_norm"] == 2
    assert (opposite["penalty_factor"], opposite["penalty_p_norm"]) == (factor.low, 3)


def test_a_setting_of_the_others_is_tried_once():
    assert other_values(study_of("finetuning").plan, "learning_rate") == [{}]


# Task 1 is trained once


RATES = SMALL_SPACES["finetuning"]


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("lwf", {}),
        ("lwf", {"distance": "kl", "scenario": "class", "teachers": "per_task"}),
        ("ewc", {}),
        ("ewc", {"fisher": "sampled", "anchors": "online", "gamma": 0.5}),
        ("ewc", {"fisher_scale": "unit_trace", "optimizer": "adam", "optimizer_state": "keep", "learning_rate": 0.01}),
        ("lwf_ewc", {"scenario": "domain", "tasks": 5}),
        ("lwf_ewc", {"schedule": "cosine", "random_crop": 1}),
    ],
)
def test_settings_with_one_learning_rate_share_task_1_and_end_as_they_would_alone(algorithm, settings):
    plan = study_of(algorithm, **settings).plan
    probe = SensitivityProbe(plan, data_of(plan))
    found = []
    for i in range(3):
        values = {name: r.points(3)[i] for name, r in plan.space.items()}
        found.append(probe.outcome(values, False))
        alone = learned(plan, values)
        assert torch.equal(found[-1].params, alone.params)
        assert (found[-1].moved, found[-1].penalty) == (alone.moved, alone.penalty)
    assert len(probe.firsts) == 1
    assert not torch.equal(found[0].params, found[1].params)  # or nothing was shown


def test_each_learning_rate_and_each_length_has_its_own_task_1():
    plan = study_of("ewc", space=SMALL_SPACES["ewc"] | RATES, iterations=40).plan
    probe = SensitivityProbe(plan, data_of(plan))
    settings = [
        ({"learning_rate": rate, "penalty_factor": factor, "penalty_p_norm": 2.0}, long)
        for rate in (0.01, 0.1)
        for factor in (1.0, 100.0)
        for long in (False, True)
    ]
    for values, long in settings:
        assert torch.equal(probe.outcome(values, long).params, learned(plan, values, long).params)
    assert len(probe.firsts) == 4
    parameters = [torch.cat([v.flatten() for v in first.params.values()]) for first in probe.firsts.values()]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(parameters, 2))
    assert all(first.tasks_learned == 1 for first in probe.firsts.values())


def test_a_setting_is_trained_once():
    plan = study_of("ewc").plan
    probe = SensitivityProbe(plan, data_of(plan))
    values = {"penalty_factor": 1.0, "penalty_p_norm": 2.0}
    assert probe.outcome(values, False) is probe.outcome(dict(reversed(values.items())), False)
    assert probe.outcome(values, False) is not probe.outcome(values | {"penalty_factor": 2.0}, False)


def test_a_first_task_that_diverges_is_trained_once_too():
    plan = study_of("ewc", **TOO_FAST).plan
    probe = SensitivityProbe(plan, data_of(plan))
    for factor in (1.0, 2.0):
        assert probe.outcome({"penalty_factor": factor, "penalty_p_norm": 2.0}, False) is None
    assert list(probe.firsts.values()) == [None]


# Other backbones and data


class Tiny(torch.nn.Module):
    """A backbone as a user might write it."""

    def __init__(self, shape):
        super().__init__()
        self.layer = torch.nn.Conv2d(shape[0], 6, 3)

    def forward(self, images):
        return self.layer(images).relu().flatten(1)


@pytest.mark.parametrize("backbone", ["cnn", Tiny])
@pytest.mark.parametrize("algorithm", ["lwf", "ewc"])
def test_the_default_ranges_act_with_other_backbones(algorithm, backbone):
    settings = {"hidden": (8,) if backbone == "cnn" else None} | ({"fisher_samples": 20} if algorithm == "ewc" else {})
    checked(study_of(algorithm, space=None, backbone=backbone, batch_size=32, **settings).plan)


@pytest.mark.parametrize("backbone", ["cnn", Tiny])
def test_a_range_that_does_not_act_is_refused_with_other_backbones(backbone):
    hidden = (8,) if backbone == "cnn" else None
    settings = {"space": {"penalty_factor": LogRange(1e-12, 1e-10)}, "iterations": 20, "batch_size": 32}
    plan = study_of("ewc", backbone=backbone, hidden=hidden, **settings, fisher_samples=20).plan
    assert set(problems(plan)) == {"penalty_factor"}


@pytest.mark.parametrize("settings", [{}, {"backbone": "cnn", "random_crop": 1, "horizontal_flip": True}])
@pytest.mark.parametrize("algorithm", ["lwf", "ewc"])
def test_the_default_ranges_act_on_images_of_ones_own_which_are_not_read_again(
    tmp_path, monkeypatch, algorithm, settings
):
    monkeypatch.setenv("CLSEARCH_CACHE", str(tmp_path / "cache"))
    folder = write_images(tmp_path / "pets", count=20)
    settings = settings | {"iterations": 20, "batch_size": 16}
    plan = study_of(algorithm, space=None, benchmark=f"folder:{folder}", **settings).plan
    data = read_data(plan.config.source, None)
    for path in tmp_path.iterdir():
        shutil.rmtree(path)
    check_sensitivity(plan, data)
    space = (
        {"distillation_factor": LogRange(1e-9, 1e-8)}
        if algorithm == "lwf"
        else {"penalty_factor": LogRange(1e-12, 1e-10)}
    )
    with pytest.raises(ConfigError, match=rf"^{next(iter(space))}: must act: "):
        check_sensitivity(replace(plan, space=SearchSpace.of(space)), data)


# It leaves the process as it was


def test_the_check_is_deterministic_and_leaves_random_numbers_and_the_plan_alone():
    plan = study_of("ewc", space={"penalty_factor": LogRange(1e-12, 1e-10)}).plan
    before = (plan.settings.copy(), plan.config, SearchSpace(plan.space.parts))
    torch.manual_seed(3)
    np.random.seed(3)
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = problems(plan)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)
    torch.manual_seed(99)
    np.random.seed(99)
    assert problems(plan) == first
    assert (plan.settings, plan.config, plan.space) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("backbone", ["mlp", Tiny])
def test_the_number_of_threads_is_left_as_it_was(backbone):
    plan = study_of("finetuning", backbone=backbone, hidden=(8,) if backbone == "mlp" else None, batch_size=32).plan
    torch.set_num_threads(2)
    try:
        checked(plan)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
