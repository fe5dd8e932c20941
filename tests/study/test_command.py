"""The scripts of this repository, and the command that is recorded: it makes the same plan again."""

import runpy
import sys
from pathlib import Path

import pytest

from clsearch import LogRange, Range, Study
from clsearch.common.formatting import relative_path
from clsearch.config.trial import TrialConfig
from tests.builders import (
    STUDIES,
    planned,
    study_of,
)

pytestmark = pytest.mark.slow

SEARCHED = {
    "lwf_temperature_sweep": {"distillation_factor", "distillation_temperature"},
    "ewc_penalty_sweep": {"penalty_factor", "penalty_p_norm"},
    "lwf_ewc_together": {"distillation_factor", "distillation_temperature", "penalty_factor"},
    "plain_l2": {"penalty_factor"},
    "own_settings": {"strength"},
    "amnesiac_lwf": {"distillation_factor", "distillation_temperature"},
}


def script(path: Path) -> Study:
    return runpy.run_path(str(path))["study"]


def test_what_each_script_of_one_study_searches_is_known_here():
    assert {path.stem for path in STUDIES} == set(SEARCHED)


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_a_script_states_its_question_and_is_a_valid_study_of_its_own_name(path):
    study = script(path)
    assert study.question.endswith("?")
    assert study.plan.options.name == path.stem
    assert set(study.plan.space) == SEARCHED[path.stem]


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_a_scripts_command_line_without_options_is_the_script(path):
    study = script(path)
    plan = planned(study)
    assert plan.command == [relative_path(Path(sys.executable)), sys.argv[0]]
    assert (plan.space, plan.config, plan.options) == (study.plan.space, study.plan.config, study.plan.options)


def test_the_command_holds_what_differs_from_the_script_and_nothing_else():
    study = study_of("ewc", seeds=2)
    args = ["--penalty-factor", "2", "3", "--seeds", "2", "--trials", "5", "--average-over-tasks", "--hidden", "6", "4"]
    words = planned(study, *args).command
    assert words[:2] == [relative_path(Path(sys.executable)), "studies/mine.py"]
    assert "--seeds" not in words
    again = planned(study, *words[2:])
    assert again.space == {"penalty_factor": LogRange(2, 3), "penalty_p_norm": Range(1, 3)}
    assert again.config.hidden == (6, 4)
    assert again.config.average_over_tasks
    assert again.trials == 5


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--penalty-p-norm", "1.5"],
        ["--penalty-factor", "2", "3", "--penalty-p-norm", "1.25", "2.5"],
        ["--learning-rate", "0.01", "1"],
        ["--learning-rate", "1e-05"],
        ["--iterations", "7"],
        ["--scenario", "class", "--tasks", "5"],
        ["--benchmark", "permuted-digits", "--hidden", "6", "4", "--optimizer", "adam"],
        ["--average-over-tasks", "--optimizer-state", "keep", "--momentum", "0.9"],
        ["--name", "x", "--seeds", "2", "--first-seed", "4", "--sampler", "grid", "--grid-points", "2"],
        ["--results", "else where", "--tracking-uri", "sqlite:///a b.db", "--verbose", "--download"],
        ["--cpus-per-trial", "2", "--gpus-per-trial", "0.5", "--max-concurrent", "3", "--device", "cpu"],
        ["--backbone", "cnn"],
        ["--backbone", "cnn", "--hidden", "6", "4"],
        ["--backbone", "resnet18", "--benchmark", "split-cifar100", "--tasks", "20", "--data-root", "my data"],
        ["--schedule", "cosine", "--warmup", "0.1", "--random-crop", "1", "--horizontal-flip"],
        ["--schedule", "step", "--milestones", "0.2", "0.4", "0.8", "--decay", "0.3"],
        ["--schedule", "step", "--milestones", "0.9"],
        ["--objectives", "average_forgetting", "accuracy/task_02", "--sampler", "nsga2", "--trials", "9"],
        ["--sampler", "qmc", "--report-seeds", "2", "--first-report-seed", "77"],
        ["--no-final"],
        ["--protocol", "first_k", "--first-k", "2", "--tasks", "5"],
        ["--protocol", "two_phase", "--report-benchmark", "split-mnist"],
        ["--protocol", "continual", "--penalty-p-norm", "2", "--learning-rates", "0.01", "0.1"],
    ],
    ids=" ".join,
)
def test_the_command_makes_the_same_plan_again(args):
    study = study_of("ewc")
    plan = planned(study, *args)
    assert planned(study, *plan.command[2:]) == plan


@pytest.mark.parametrize("algorithm", ["lwf", "ewc"])
def test_a_study_from_python_has_no_command(algorithm):
    assert study_of(algorithm).plan.command is None


def test_a_study_takes_every_field_of_its_options_and_configuration_as_a_keyword(tmp_path):
    study = study_of("lwf", results=tmp_path, seeds=2, cpus_per_trial=2, optimizer="adam", teachers="last")
    assert study.plan.options.seeds == 2
    assert study.plan.options.cpus_per_trial == 2
    config = study.plan.config
    assert isinstance(config, TrialConfig)
    assert (config.optimizer, config.teachers) == ("adam", "last")


def test_a_value_fixed_at_the_fields_default_stays_fixed_in_the_command():
    plan = planned(study_of("ewc"), "--penalty-p-norm", "2")
    assert plan.command[2:] == ["--penalty-p-norm", "2.0"]
    assert "penalty_p_norm" not in planned(study_of("ewc"), *plan.command[2:]).space


def test_a_range_keeps_every_digit_in_the_command():
    plan = planned(study_of("ewc"), "--penalty-factor", "0.12345678", "3")
    assert planned(study_of("ewc"), *plan.command[2:]).space == plan.space


@pytest.mark.parametrize("value", ["True", "False"])
def test_train_head_survives_the_command_whatever_the_script_says(value):
    for study in (study_of(train_head=value == "False"), study_of()):
        plan = planned(study, "--train-head", value)
        assert planned(study, *plan.command[2:]).config.train_head is (value == "True")


def test_a_scripts_trials_do_not_bind_where_nothing_is_left_to_search():
    study = study_of("ewc", trials=7)
    assert planned(study, "--penalty-factor", "1", "--penalty-p-norm", "2").trials == 1


@pytest.mark.filterwarnings("error")
def test_a_script_may_give_lists_and_text_where_tuples_and_paths_are_meant():
    study = study_of(hidden=[8, 4], scenario="class", results="out")
    plan = planned(study, "--seeds", "1")
    assert plan.config.hidden == (8, 4)
    assert plan.command[2:] == ["--seeds", "1"]


def test_a_scripts_trials_do_not_bind_a_grid_that_the_user_asks_for():
    plan = planned(study_of("ewc", trials=7), "--sampler", "grid", "--grid-points", "3")
    assert plan.trials == 9


@pytest.mark.parametrize(
    "args",
    [
        ["--backbone", "cnn", "--hidden", "8"],
        ["--backbone", "cnn"],
        ["--classes-per-task", "4", "3", "3", "--tasks", "3"],
        ["--schedule", "step", "--milestones", "0.5", "0.75", "--warmup", "0.2"],
        ["--schedule", "step", "--decay", "0.1"],
        ["--random-crop", "2", "--horizontal-flip", "--benchmark", "rotated-digits", "--tasks", "4"],
    ],
)
def test_the_command_of_a_plan_makes_the_same_plan(args):
    plan = planned(study_of(), *args)
    again = planned(study_of(), *plan.command[2:])
    assert again.config == plan.config
    assert again.command == plan.command
