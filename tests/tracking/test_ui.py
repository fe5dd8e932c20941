"""Addresses of MLflow's pages; that they lead somewhere is shown in a browser, tests/integration/test_browser.py."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest

from clsearch.records.study_file import description
from clsearch.tracking.ui import base_of, comparison_page, trials_page, view_name, view_of
from tests.builders import plan_of
from tests.study_folders import mixed_study


@pytest.mark.parametrize(
    ("uri", "base"),
    [
        ("sqlite:////somewhere/results/mlflow.db", "http://127.0.0.1:5000"),
        ("http://tracking:5000/", "http://tracking:5000"),
        ("https://bob:secret@tracking.example.org/mlflow", "https://tracking.example.org/mlflow"),
        ("databricks", None),
        ("postgresql://me@here/mlflow", None),
    ],
)
def test_pages_are_where_the_store_is_served_and_show_no_password(uri, base) -> None:
    assert base_of(uri) == base


def test_the_address_of_a_comparison_names_the_runs() -> None:
    page = comparison_page("http://here", "7", ["a1", "b2"])
    assert unquote(page) == 'http://here/#/compare-runs?runs=["a1","b2"]&experiments=["7"]'
    assert " " not in page
    assert '"' not in page


def test_the_address_of_the_trials_names_the_view() -> None:
    page = trials_page("http://here", "7", view_name("0123456789abcdef"))
    assert page == "http://here/#/experiments/7/runs?viewStateShareKey=trials-01234567"


def test_the_view_has_the_trials_of_the_study_and_the_columns_to_judge_them(tmp_path) -> None:
    view = json.loads(view_of(description(plan_of(tmp_path, "ewc")) | {"id": "an-id"}))
    assert view["searchFilter"] == "tags.study_id = 'an-id' and tags.kind = 'trial'"
    assert view["selectedColumns"] == [
        "metrics.`average_accuracy`",
        "metrics.`average_forgetting`",
        "params.`penalty_factor`",
        "params.`penalty_p_norm`",
        "tags.`state`",
    ]
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`average_accuracy`", False)
    assert set(view["columnWidths"]) == set(view["columnOrder"]) == {*view["selectedColumns"], "attributes.`Run Name`"}


def test_a_hyperparameter_with_two_ranges_is_one_column(tmp_path) -> None:
    plan, _ = mixed_study(tmp_path)
    view = json.loads(view_of(description(plan) | {"id": "an-id"}))
    columns = [name for name in view["selectedColumns"] if name.startswith("params")]
    assert columns == [f"params.`{name}`" for name in plan.space]
    assert columns.count("params.`learning_rate`") == 1


def test_the_best_trial_is_first_where_less_is_better(tmp_path) -> None:
    plan = plan_of(tmp_path, objectives=("average_forgetting",))
    view = json.loads(view_of(description(plan) | {"id": "an-id"}))
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`average_forgetting`", True)
    assert view["selectedColumns"].count("metrics.`average_forgetting`") == 1


def test_of_the_protocol_continual_what_was_chosen_is_a_metric(tmp_path) -> None:
    plan = plan_of(tmp_path, "ewc", protocol="continual", space=None)
    view = json.loads(view_of(description(plan) | {"id": "an-id"}))
    assert [name for name in view["selectedColumns"] if name.startswith("params")] == []
    assert {"metrics.`accuracy`", "metrics.`bar`", "metrics.`learning_rate`"} < set(view["selectedColumns"])
