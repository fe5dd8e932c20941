"""Trials that are stopped early, with the real tools."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from clsearch import LogRange, Study
from clsearch.reporting.result import StudyResult
from tests.integration.test_resume import optuna_trials


@pytest.fixture(scope="module")
def settings(results: Path) -> dict[str, object]:
    """EWC from far too weak to far too strong, so that many trials are worth stopping."""
    return {
        "algorithm": "ewc",
        "space": {"penalty_factor": LogRange(1e-3, 1e6)},
        "name": "pruned",
        "results": results,
        "benchmark": "permuted-digits",
        "tasks": 4,
        "hidden": (32,),
        "epochs": 2,
        "seeds": 2,
        "trials": 9,
        "pruner": "asha",
        "final": False,
    }


@pytest.fixture(scope="module")
def found(ray_session: str, settings: dict[str, object]) -> StudyResult:
    return Study(**settings).run()


def test_trials_are_stopped_after_two_tasks_and_not_ranked(found: StudyResult) -> None:
    states = [r.state for r in found.records]
    assert len(states) == 9
    assert states.count("pruned") >= 3
    assert states.count("finished") >= 1
    assert {r.tasks_learned for r in found.records if r.state == "pruned"} == {2}
    assert {r.label for r in found.ranking.trials} == {r.label for r in found.records if r.state == "finished"}
    table = pd.read_csv(found.plan.folder / "trials.csv")
    assert table[table.state == "pruned"].average_accuracy.isna().all()
    assert [r.state for r in found.references] == ["finished"]


def test_optuna_knows_a_stopped_trial_by_its_values_so_far(found: StudyResult) -> None:
    for trial, record in zip(optuna_trials(found.plan.folder), found.records, strict=True):
        assert trial.state.name == {"pruned": "PRUNED", "finished": "COMPLETE", "failed": "PRUNED"}[record.state]
        assert [*trial.intermediate_values] == list(range(1, record.tasks_learned + 1))
        assert trial.intermediate_values.get(record.tasks_learned) == record.metrics.get("average_accuracy")


def test_mlflow_and_best_json_say_what_was_stopped(found: StudyResult, results: Path) -> None:
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("pruned")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    stopped = sum(r.state == "pruned" for r in found.records)
    assert sum((run.data.tags["state"], run.info.status) == ("pruned", "KILLED") for run in runs) == stopped
    pruning = json.loads((found.plan.folder / "best.json").read_text())["pruning"]
    assert (pruning["trials"], pruning["saved"], pruning["total"]) == (stopped, stopped * 2 * 2, 9 * 4 * 2)
    assert [rung["tasks"] for rung in pruning["rungs"]] == [2]


def test_what_was_stopped_stays_stopped_when_a_study_goes_on(found: StudyResult, settings: dict[str, object]) -> None:
    more = Study(**settings | {"trials": 11}).run()
    assert [(r.state, r.values) for r in more.records[:9]] == [(r.state, r.values) for r in found.records]
    assert len(optuna_trials(found.plan.folder)) == 11
    assert all(record.ended for record in more.records)
