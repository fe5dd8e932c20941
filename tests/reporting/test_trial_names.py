"""Names of runs in MLflow."""

from __future__ import annotations

import math

import pytest

from clsearch import Choice, IntRange, LogRange, Range, When
from clsearch.config.spaces import SearchSpace
from clsearch.planning.plan import Plan
from clsearch.reporting.trial_names import format_run_name, log_parameters, shorten_name, trial_parameters
from clsearch.tracking.run_metrics import evaluation_run_name
from tests.builders import measured_of, plan_of, record_of


@pytest.mark.parametrize(
    ("algorithm", "values", "name"),
    [
        ("lwf", {"distillation_factor": 0.8, "distillation_temperature": 2.1}, "#17 LwF factor=0.8 τ=2.1"),
        ("ewc", {"penalty_factor": 0.1 + 0.2, "penalty_p_norm": 1.5}, "#17 EWC factor=0.3 p=1.5"),
        (
            "lwf_ewc",
            {"distillation_factor": 1.0, "distillation_temperature": 2.0, "penalty_factor": 1234.5},
            "#17 LwF with EWC distillation_factor=1 τ=2 penalty_factor=1.23e+03",
        ),
        ("finetuning", {"learning_rate": 0.05}, "#17 finetuning lr=0.05"),
        ("lwf", {"train_head": False, "teachers": None}, "#17 LwF train_head=false teachers=none"),
    ],
)
def test_a_trials_name_has_its_number_its_algorithm_and_its_values_rounded(tmp_path, algorithm, values, name) -> None:
    assert format_run_name(record_of(plan_of(tmp_path, algorithm), 17, [0.5] * 3, values)) == name


def test_choices_and_whole_numbers_are_in_a_name_as_they_are_in_tables(tmp_path) -> None:
    space = {"optimizer": Choice("sgd", "adam"), "hidden": Choice((8,), (100, 100)), "batch_size": IntRange(8, 64)}
    plan = plan_of(tmp_path, "finetuning", space=space)
    record = record_of(plan, 17, [0.5] * 3, {"optimizer": "adam", "hidden": "100,100", "batch_size": 32})
    assert format_run_name(record) == "#17 finetuning optimizer=adam hidden=100,100 batch_size=32"


def test_a_references_name_is_its_algorithm(tmp_path) -> None:
    assert (
        format_run_name(record_of(plan_of(tmp_path), None, [0.5] * 3, algorithm="finetuning")) == "reference finetuning"
    )


def test_a_final_evaluations_name_says_what_was_measured_on_what(tmp_path) -> None:
    plan: Plan = plan_of(tmp_path, protocol="first_k", tasks=5)
    scores = [0.5] * 5
    assert evaluation_run_name(measured_of(plan, scores, scores)) == "final LwF (chosen), full sequence"
    assert (
        evaluation_run_name(measured_of(plan, scores, scores, "joint", "reported")) == "final joint training, reported"
    )


def test_a_word_that_two_hyperparameters_end_with_is_not_enough() -> None:
    assert shorten_name("penalty_factor", ["penalty_factor", "penalty_p_norm"]) == "factor"
    assert shorten_name("penalty_factor", ["penalty_factor", "distillation_factor"]) == "penalty_factor"
    assert shorten_name("epochs", ["epochs"]) == "epochs"


def test_a_first_word_that_no_other_hyperparameter_has_stays() -> None:
    names = ["batch_size", "weight_decay", "learning_rate", "train_head"]
    assert [shorten_name(name, names) for name in names] == names


def test_logarithms_are_of_numbers_on_logarithmic_scales_only(tmp_path) -> None:
    space = SearchSpace.of(
        {
            "learning_rate": LogRange(0.1, 1),
            "distillation_factor": LogRange(1, 100),
            "momentum": Range(0, 0.9),
            "batch_size": IntRange(16, 64, log=True),
            "optimizer": Choice("sgd", "adam"),
            "train_head": Choice(True, False),
        }
    )
    values = {"distillation_factor": 2.0, "momentum": 0.5, "batch_size": 32, "optimizer": "sgd", "train_head": True}
    record = record_of(plan_of(tmp_path), 0, [0.5] * 3, values)
    logs = {"LOG10 factor": f"{math.log10(2):.6g}", "LOG10 batch_size": f"{math.log10(32):.6g}"}
    assert log_parameters(record, space) == logs


def test_logarithms_have_short_names_since_mlflows_axes_are_close_to_each_other(tmp_path) -> None:
    plan = plan_of(tmp_path)
    record = record_of(plan, 0, [0.5] * 3)
    assert set(log_parameters(record, plan.space)) == {"LOG10 factor", "LOG10 temperature"}


def test_a_setting_is_a_parameter_once_and_one_that_does_not_apply_is_none(tmp_path) -> None:
    space = [{"optimizer": Choice("sgd", "adam")}, When("optimizer", "sgd", {"momentum": Range(0.0, 0.9)})]
    plan = plan_of(tmp_path, space=space)
    sgd, adam = (
        trial_parameters(record_of(plan, n, [0.5] * 3, values), plan.space)
        for n, values in enumerate([{"optimizer": "sgd", "momentum": 0.5}, {"optimizer": "adam"}])
    )
    assert (sgd["optimizer"], sgd["momentum"]) == ("sgd", 0.5)
    assert adam["optimizer"] == "adam"
    assert {*sgd} - {*adam} == {"momentum"}
