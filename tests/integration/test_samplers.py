"""Real studies with every sampler, with constraints, a time limit and patience."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from mlflow import MlflowClient

from clsearch import Choice, IntRange, LogRange, Study
from clsearch.planning.samplers import SAMPLERS
from clsearch.records.study_file import read_best_json, read_study_json
from clsearch.reporting.result import StudyResult
from tests.integration.test_study import client, runs_of

__all__ = ["client"]

NUMBERS: dict[str, Any] = {"distillation_factor": LogRange(0.01, 100), "batch_size": IntRange(32, 128)}
CHOICE = {"schedule": Choice("constant", "cosine")}


def run(results: Path, name: str, trials: int | None, **settings: Any) -> StudyResult:
    """Run, or resume, a small study."""
    given = {"space": NUMBERS | CHOICE, "tasks": 2, "seeds": 2, "hidden": (8,), "final": False, "quiet": True}
    given |= {"references": (), "epochs": 1, "max_concurrent": 1}
    return Study(algorithm="lwf", name=name, results=results, trials=trials, **given | settings).run()


OWN = {"own": {"sampler": optuna.samplers.RandomSampler(seed=1)}}
GENETIC = {"objectives": ("average_accuracy", "average_forgetting")}
OTHER = {
    "grid": {"grid_points": 2},
    "nsga2": GENETIC,
    "nsga3": GENETIC,
    "cmaes": {"space": NUMBERS},
}


@pytest.mark.parametrize("sampler", [*SAMPLERS, "own"])
def test_a_study_with_any_sampler_ends_and_goes_on(ray_session: str, results: Path, sampler: str) -> None:
    settings = OWN.get(sampler, {"sampler": sampler}) | OTHER.get(sampler, {})
    first, more = (None, None) if sampler == "grid" else (8, 9) if sampler.startswith("nsga") else (4, 6)
    result = run(results, sampler, first, **settings)
    assert result.exit_code == 0
    assert {record.state for record in result.records} == {"finished"}
    values = [record.values for record in result.records]
    assert all(result.plan.space.has(one) for one in values)
    again = run(results, sampler, more, **settings)
    assert again.exit_code == 0
    assert len(again.records) == (more or len(values))
    assert [record.values for record in again.records][: len(values)] == values


def test_a_trial_that_breaks_a_constraint_is_marked_and_not_chosen(
    ray_session: str, results: Path, client: MlflowClient
) -> None:
    free = run(results, "free", 5)
    scores = sorted(record.metrics["average_accuracy"] for record in free.records)
    # The same trials: the sampler begins to learn after ten.
    kept = run(results, "kept", 5, constraints={"average_accuracy": scores[3]}, objectives=("learning_accuracy",))
    table = pd.read_csv(kept.plan.folder / "trials.csv")
    assert sorted(table.feasible) == ["no", "no", "no", "yes", "yes"]
    assert kept.best is not None
    assert kept.best.metrics["average_accuracy"] >= scores[3]
    tags = [trial.data.tags["feasible"] for trial in runs_of(client, "kept", "trial")]
    assert sorted(tags) == ["no", "no", "no", "yes", "yes"]
    none = run(results, "none", 3, constraints={"average_accuracy": 1.0})
    assert none.exit_code == 1
    assert none.best is None
    assert none.choice is None
    assert read_best_json(none.plan.folder)["reason"] == "no trial keeps the constraints, average_accuracy at least 1"
    assert none.answer.startswith("No trial keeps the constraints, average_accuracy at least 1, so none is chosen. ")


def test_a_search_ends_in_time_and_goes_on_with_the_same_time_again(ray_session: str, results: Path) -> None:
    result = run(results, "timed", 2000, hours="14s", max_concurrent=None)
    assert result.exit_code == 0
    assert 0 < len(result.records) < 2000
    assert all(record.ended for record in result.records)
    assert f"of 14 s, with {len(result.records)} of 2000 trials" in read_best_json(result.plan.folder)["search_end"]
    assert read_study_json(result.plan.folder)["state"] == "finished"
    longer = run(results, "timed", 2000, hours="16s", max_concurrent=None)
    assert len(longer.records) > len(result.records)


def test_a_search_ends_when_patience_does_and_goes_on_with_more_of_it(ray_session: str, results: Path) -> None:
    result = run(results, "patient", 40, patience=2)
    assert result.exit_code == 0
    count = len(result.records)
    assert count < 40
    assert "(patience 2)" in read_best_json(result.plan.folder)["search_end"]
    written = (result.plan.folder / "optuna.journal").read_bytes()
    assert len(run(results, "patient", 40, patience=2).records) == count
    assert (result.plan.folder / "optuna.journal").read_bytes() == written  # nothing was left to do
    patient = run(results, "patient", 40, patience=4)
    assert len(patient.records) >= count + 2
    assert len(run(results, "patient", 41, patience=4).records) >= len(patient.records) + 4  # counted anew
