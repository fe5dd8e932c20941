"""Names of runs in MLflow."""

from __future__ import annotations

import math

import pytest

from clsearch.planning.plan import Plan
from clsearch.reporting.trial_names import format_run_name, log_parameters, shorten_name
from clsearch.tracking.run_metrics import evaluation_run_name
from tests.builders import SMALL_SPACES, measured_of, plan_of, record_of


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
    ],
)
def test_a_trials_name_has_its_number_its_algorithm_and_its_values_rounded(tmp_path, algorithm, values, name) -> None:
    assert format_run_name(record_of(plan_of(tmp_path, algorithm), 17, [0.5] * 3, values)) == name


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


def test_logarithms_are_of_logarithmic_ranges_only() -> None:
    space = {"a": {"low": 1, "high": 9, "log": True}, "b": {"low": 1, "high": 9, "log": False}}
    assert log_parameters({"a": 2.0, "b": 2.0, "c": 2.0}, space) == {"LOG10 a": f"{math.log10(2):.6g}"}


def test_logarithms_have_short_names_since_mlflows_axes_are_close_to_each_other() -> None:
    space = {name: {"low": 1, "high": 9, "log": True} for name in SMALL_SPACES["lwf"]}
    assert set(log_parameters(dict.fromkeys(space, 1.0), space)) == {"LOG10 factor", "LOG10 temperature"}
