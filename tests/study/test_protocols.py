"""Protocols on the command line of a script that has another."""

import pytest

from tests.builders import (
    planned,
    study_of,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "options", "name"),
    [
        ("lwf", "", "distillation_temperature"),
        ("ewc", "", "penalty_p_norm"),
        ("lwf", "--distillation-temperature 2 --learning-rate 0.01 1", "learning_rate"),
    ],
)
def test_a_range_of_what_continual_does_not_decay_is_refused_with_the_way_out(refused, algorithm, options, name):
    text = refused("--protocol", "continual", *options.split(), algorithm=algorithm)
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {name}: ")
    assert "continual" in line
    assert "; give one value" in line
    planned(study_of(algorithm), "--protocol", "continual", *options.split(), option_of(name), "2")


def option_of(name):
    return "--" + name.replace("_", "-")


@pytest.mark.slow
def test_a_scripts_protocol_may_be_left_for_another():
    study = study_of("ewc", protocol="first_k", first_k=2, tasks=5, trials=7, final=False)
    assert planned(study).command[2:] == []
    for args in (["--protocol", "end_of_sequence"], ["--protocol", "two_phase", "--report-benchmark", "split-mnist"]):
        plan = planned(study, *args)
        assert (plan.protocol, plan.options.first_k) == (args[1], None)
        assert (plan.tasks, plan.trials, plan.options.final) == ((1, 2, 3, 4, 5), 7, False)
        assert planned(study, *plan.command[2:]) == plan
    assert planned(study, "--protocol", "first_k").tasks == (1, 2)
    assert planned(study, "--final").options.final


def test_a_scripts_sampler_and_budget_do_not_bind_continual_which_has_none():
    study = study_of("ewc", trials=9, sampler="nsga2", objectives=("average_accuracy", "average_forgetting"))
    plan = planned(study, "--protocol", "continual", "--penalty-p-norm", "2")
    assert (plan.trials, list(plan.space)) == (1, ["penalty_factor"])
    assert planned(study, *plan.command[2:]) == plan


def test_continual_on_the_command_line_of_a_script_with_default_ranges_searches_the_factors_alone():
    study = study_of("lwf_ewc", space=None)
    plan = planned(study, "--protocol", "continual")
    assert list(plan.space) == ["distillation_factor", "penalty_factor"]
    assert plan.space == {name: study.plan.space[name] for name in plan.space}
    assert planned(study, *plan.command[2:]) == plan
