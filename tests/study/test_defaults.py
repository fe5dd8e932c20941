"""Ranges and settings that a script or a user leaves open: default spaces, presets."""

import json
import shlex

import pytest

from clsearch import SPACES, LogRange, Range, Study
from clsearch.methods.registry import BUILT_IN, preset_settings, presets
from clsearch.records.ranking import rerun_command
from clsearch.records.writer import StudyWriter
from tests.builders import (
    planned,
    record_of,
    study_of,
)
from tests.refusals import broken
from tests.study.shared import DEFAULT, following

pytestmark = pytest.mark.slow


def test_a_space_that_is_not_given_is_the_default_one():
    for algorithm in BUILT_IN:
        requests = {"unlearn": ("3:1",)} if algorithm.startswith("amnesiac") else {}
        assert following(algorithm, **requests).plan.space == SPACES[algorithm]
    assert Study(algorithm="lwf", epochs=1).plan.space == SPACES["lwf"]


def test_the_default_ranges_follow_the_keywords():
    assert following(fisher="batch", batch_size=100).plan.space["penalty_factor"] == LogRange(10, 1e7)
    assert "distillation_temperature" not in following("lwf", distance="mse").plan.space


@pytest.mark.parametrize("value", [3.0, 1.0])
def test_a_keyword_fixes_what_the_default_space_would_search(value):
    plan = following(penalty_factor=value).plan
    assert plan.space == {"penalty_p_norm": DEFAULT["penalty_p_norm"]}
    assert plan.trial_config({"penalty_p_norm": 2}).penalty_factor == value
    assert following(penalty_factor=value, penalty_p_norm=2).plan.space == {}


def test_an_explicit_space_never_follows():
    space = {"penalty_factor": LogRange(0.1, 1e5)}
    study = study_of("ewc", space=space, fisher="batch")
    assert study.plan.space == space
    assert planned(study, "--fisher", "batch", "--fisher-scale", "per_parameter").space == space
    assert study_of("ewc", space={}, fisher="batch").plan.space == {}
    assert planned(study_of("ewc", space={})).space == {}


def test_a_temperature_in_an_explicit_space_is_refused_where_the_distance_has_none(refused):
    assert broken(study_of().plan_for, ["--distance", "mse"]) == [("distillation_temperature", "searched-acts")]
    assert "error: distillation_temperature: " in refused("--distance", "mse")


@pytest.mark.parametrize(
    ("args", "space"),
    [
        ([], DEFAULT),
        (["--fisher", "batch"], DEFAULT | {"penalty_factor": LogRange(3, 3e6)}),
        (["--fisher=batch"], DEFAULT | {"penalty_factor": LogRange(3, 3e6)}),
        (["--fisher", "batch", "--batch-size", "100"], DEFAULT | {"penalty_factor": LogRange(10, 1e7)}),
        (["--fisher", "batch", "--penalty-factor", "2", "30"], DEFAULT | {"penalty_factor": LogRange(2, 30)}),
        (["--penalty-factor", "0.1", "1e5", "--fisher", "batch"], DEFAULT),
        (["--fisher", "batch", "--penalty-factor=2", "30"], DEFAULT | {"penalty_factor": LogRange(2, 30)}),
        (["--fisher", "batch", "--penalty_factor", "2", "30"], DEFAULT | {"penalty_factor": LogRange(2, 30)}),
        (["--fisher", "batch", "--penalty-factor", "2"], {"penalty_p_norm": DEFAULT["penalty_p_norm"]}),
        (["--penalty-p-norm", "2"], {"penalty_factor": DEFAULT["penalty_factor"]}),
        (["--penalty-p-norm", "1.5", "2"], DEFAULT | {"penalty_p_norm": Range(1.5, 2)}),
        (["--learning-rate", "0.01", "0.1"], DEFAULT | {"learning_rate": LogRange(0.01, 0.1)}),
        (["--penalty-factor", "2", "--penalty-p-norm", "2"], {}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_ranges_that_the_user_does_not_give_follow_and_given_ones_do_not(args, space):
    plan = planned(following(), *args)
    assert plan.space == space
    again = planned(following(), *plan.command[2:])
    assert again == plan, plan.command[2:]


@pytest.mark.parametrize(
    "args",
    [
        ["--fisher", "batch"],
        ["--fisher", "batch", "--penalty-factor", "0.1", "1e5"],
        ["--fisher", "batch", "--penalty-factor", "5"],
        ["--preset", "clarena-first"],
        ["--references", "joint", "independent"],
        ["--references"],
    ],
    ids=" ".join,
)
def test_the_best_of_a_space_that_followed_is_trained_again_as_it_was(args):
    study = following()
    plan = planned(study, *args)
    values = {name: r.points(3)[1] for name, r in plan.space.items()}
    words = shlex.split(rerun_command(plan, record_of(plan, 3, [0.5, 0.6, 0.7], values)))
    again = planned(study, *words[2:])
    assert again.space == {}
    assert again.trials == 1
    assert again.config == plan.trial_config(values)
    assert again.references == plan.references


def test_a_distance_with_a_temperature_brings_back_the_temperature_that_a_script_had_none_of():
    plan = planned(following("lwf", distance="mse"), "--distance", "kl")
    assert plan.space == following("lwf", distance="kl").plan.space


def test_a_distance_without_a_temperature_drops_it_from_a_default_space():
    plan = planned(following("lwf"), "--distance", "mse")
    assert plan.space == {"distillation_factor": SPACES["lwf"]["distillation_factor"]}
    assert planned(following("lwf"), *plan.command[2:]) == plan


def test_none_is_unless_given_for_what_is_searched_too():
    assert following(penalty_factor=None).plan.space == DEFAULT


FIRST = {"fisher": "batch", "fisher_scale": "per_parameter", "average_over_tasks": True}


FIRST_RANGE = LogRange(2000, 2e9)  # 32 samples a batch, 520 parameters of 64-8: 1,664 to 1.664e9 in one digit


def of_config(plan, names):
    return {name: getattr(plan.config, name) for name in names}


def test_a_preset_fills_in_what_the_algorithm_knows():
    plan = following(preset="clarena-first").plan
    assert of_config(plan, FIRST) == FIRST
    assert plan.space["penalty_factor"] == FIRST_RANGE
    lwf = following("lwf", preset="clarena-first", scenario="class").plan
    assert of_config(lwf, ["teachers", "train_head"]) == {"teachers": "per_task", "train_head": False}
    both = following("lwf_ewc", preset="clarena-first", scenario="class").plan
    assert of_config(both, [*FIRST, "teachers", "train_head"]) == FIRST | {"teachers": "per_task", "train_head": False}


def test_every_preset_sets_fields_that_exist_to_valid_values():
    for preset in presets():
        settings = preset_settings("lwf_ewc", preset)
        plan = following("lwf_ewc", preset=preset).plan
        assert settings
        assert of_config(plan, settings) == settings


def test_a_keyword_wins_over_the_preset():
    plan = following(preset="clarena-first", fisher="exact", average_over_tasks=False).plan
    assert of_config(plan, FIRST) == FIRST | {"fisher": "exact", "average_over_tasks": False}
    assert following(preset="clarena-first", fisher=None).plan.config.fisher == "batch"


@pytest.mark.parametrize("algorithm", ["finetuning", "joint", "independent"])
def test_a_preset_that_sets_nothing_is_refused(algorithm):
    assert broken(following, algorithm, preset="clarena-first") == [("preset", "preset-acts")]
    assert broken(planned, following(algorithm), "--preset", "clarena-first") == [("preset", "preset-acts")]


def test_an_unknown_preset_is_refused():
    assert broken(following, preset="clarena") == [("preset", "literal-error")]


@pytest.mark.parametrize(
    ("script", "args", "changed"),
    [
        ({}, [], {}),
        ({"fisher": "exact"}, [], {}),
        ({"fisher_scale": "unit_trace", "average_over_tasks": False}, [], {}),
        ({}, ["--fisher", "exact"], {"fisher": "exact"}),
        ({"fisher": "exact"}, ["--fisher", "exact"], {"fisher": "exact"}),
        ({}, ["--fisher", "empirical"], {"fisher": "empirical"}),
        ({}, ["--fisher-scale=none"], {"fisher_scale": "none"}),
        ({}, ["--fisher_scale", "none"], {"fisher_scale": "none"}),
        ({}, ["--no-average-over-tasks"], {"average_over_tasks": False}),
        ({"average_over_tasks": True}, ["--no-average-over-tasks"], {"average_over_tasks": False}),
        ({}, ["--average-over-tasks", "--fisher", "sampled"], {"fisher": "sampled"}),
    ],
)
def test_a_preset_of_the_user_comes_after_the_script_and_before_flags(script, args, changed):
    study = following(**script)
    plan = planned(study, *args, "--preset", "clarena-first")
    assert of_config(plan, FIRST) == FIRST | changed
    assert plan.options.preset == "clarena-first"
    again = planned(study, *plan.command[2:])
    assert again == plan, plan.command[2:]


def test_a_preset_after_an_equals_sign_is_one_too():
    assert planned(following(), "--preset=clarena-first") == planned(following(), "--preset", "clarena-first")


def test_a_preset_before_a_flag_is_as_one_after_it():
    preset, flag = ["--preset", "clarena-first"], ["--fisher", "exact"]
    assert planned(following(), *preset, *flag) == planned(following(), *flag, *preset)


def test_a_preset_moves_the_default_range_and_no_other():
    assert planned(following(), "--preset", "clarena-first").space["penalty_factor"] == FIRST_RANGE
    given = planned(following(), "--preset", "clarena-first", "--penalty-factor", "2", "30")
    assert given.space["penalty_factor"] == LogRange(2, 30)
    assert planned(study_of("ewc"), "--preset", "clarena-first").space == study_of("ewc").plan.space


def test_flags_beside_a_preset_of_the_script_change_their_own_setting_alone():
    study = following(preset="clarena-first")
    assert planned(study).space == study.plan.space
    plan = planned(study, "--fisher", "exact")
    assert of_config(plan, FIRST) == FIRST | {"fisher": "exact"}
    assert planned(study, *plan.command[2:]) == plan


@pytest.mark.parametrize("preset", [None, "clarena-first"])
def test_no_preset_at_all_may_be_said(preset):
    settings = {} if preset is None else {"preset": preset}
    assert planned(following(**settings), "--preset", "None").options.preset is None


def test_a_preset_is_recorded(tmp_path):
    plan = planned(following(results=tmp_path), "--preset", "clarena-first")
    StudyWriter(plan).begin()
    content = json.loads((plan.folder / "study.json").read_text())
    assert {name: content["config"][name] for name in FIRST} == FIRST
    assert "clarena-first" in content["command"]
    assert content["preset"] == "clarena-first"


def test_no_preset_on_the_command_line_undoes_a_scripts_preset_and_nothing_else():
    script = following(preset="clarena-first", fisher_samples=7)
    plain = following(fisher_samples=7).plan
    assert planned(script, "--preset", "None").config == plain.config
    assert planned(script, "--preset", "None").space == plain.space
    kept = planned(script, "--preset", "None", "--fisher", "batch", "--average-over-tasks")
    assert (kept.config.fisher, kept.config.fisher_scale, kept.config.average_over_tasks) == ("batch", "none", True)
    own = following(preset="clarena-first", fisher="exact")
    assert planned(own, "--preset", "None").config.fisher == "exact"
