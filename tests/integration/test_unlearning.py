"""A study with requests, from its script to results/, MLflow, the report and a trial trained again."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from clsearch import LogRange, Study, metrics
from clsearch.cli.main import main
from clsearch.data.datasets import read_data
from clsearch.execution.final_evaluation import measure
from clsearch.methods.registry import configure
from clsearch.records.trial_metrics import accuracy_matrices, unlearning_measurements
from clsearch.records.trials import TrialRecord
from clsearch.reporting.result import StudyResult
from clsearch.tasks.test_data import read_test
from clsearch.training.loop import learn_sequence
from clsearch.training.retraining import retrain
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import build_trial
from tests.integration.scripts import wait_for

SPACE = {"distillation_factor": LogRange(0.1, 10), "distillation_temperature": LogRange(0.5, 5)}
SETTINGS = {
    "algorithm": "amnesiac_lwf",
    "space": SPACE,
    "unlearn": {2: 1, 4: 3},
    "tasks": 4,
    "hidden": (16,),
    "epochs": 3,
    "seeds": 2,
    "objectives": ("average_accuracy", "unlearning/distance"),
}


def in_peace(record: TrialRecord) -> TrialState:
    """What a record's configuration and seeds give without Ray, from beginning to end."""
    settings = {name: value for name, value in record.settings.items() if value is not None}
    config = configure(record.algorithm, settings)
    run = build_trial(config, record.seeds)
    return learn_sequence(replace(run, references=retrain(config, record.seeds)))


@pytest.fixture(scope="module")
def told(ray_session: str, results: Path) -> tuple[StudyResult, str]:
    study = Study(name="forgetful", results=results, trials=5, report_seeds=2, **SETTINGS)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        found = study.run()
    return found, " ".join(said.getvalue().split())


@pytest.fixture(scope="module")
def found(told: tuple[StudyResult, str]) -> StudyResult:
    return told[0]


def test_trials_measured_what_their_configurations_give_without_ray(found: StudyResult) -> None:
    assert [r.state for r in found.records] == ["finished"] * 5
    assert [r.algorithm for r in found.references] == ["amnesiac_finetuning"]
    for record in (*found.records[:2], *found.references):
        expected = in_peace(record)
        np.testing.assert_array_equal(accuracy_matrices(record), expected.accuracy)
        own = unlearning_measurements(record)
        assert own.keys() == expected.unlearning.keys()
        for name, values in expected.unlearning.items():
            np.testing.assert_allclose(own[name], values, rtol=1e-6, atol=1e-9)
        values = metrics.over_seeds(metrics.unlearning(expected.unlearning, 4))
        assert {name: record.metrics[name] for name in values} == pytest.approx(values)
        assert np.isnan(np.array(record.accuracy, dtype=float)[:, 4, [0, 2]]).all()


def test_results_have_the_accuracy_on_all_tasks_before_and_after(found: StudyResult) -> None:
    record = found.records[1]
    folder = found.plan.folder / "trials" / record.label
    table = pd.read_csv(folder / "unlearning.csv").set_index(["requests", "seed", "tasks_learned"])
    measured = unlearning_measurements(record)
    for when in ("before", "after"):
        for m, seed in enumerate(record.seeds):
            for t in range(5):
                assert table.loc[(when, seed, t)].tolist() == pytest.approx(measured[when][m, t].tolist(), nan_ok=True)
    trials = pd.read_csv(found.plan.folder / "trials.csv").set_index("number")
    assert trials["unlearning/distance"][1] == pytest.approx(record.metrics["unlearning/distance"])
    assert "accuracy/task_01" not in trials
    assert "unlearning/accuracy/task_03" in trials


def test_the_choice_and_its_reference_are_finally_evaluated_with_the_requests(found: StudyResult) -> None:
    assert found.final is not None
    assert [row.algorithm for row in found.final.rows] == ["amnesiac_lwf", "amnesiac_finetuning"]
    plan = found.plan
    config = plan.trial_config(found.choice.values)
    seeds = plan.report_seeds
    references = retrain(config, seeds)
    expected = measure(config, seeds, read_data(config.source, None), read_test(config), references=references)
    row = found.final.rows[0]
    for part in ("validation", "test"):
        np.testing.assert_array_equal(getattr(row, part), expected[part])
        for name, values in expected["unlearning"][part].items():
            np.testing.assert_allclose(row.unlearning[part][name], values, rtol=1e-6, atol=1e-9)
    read = Study.open(plan.folder)
    for part in ("validation", "test"):
        assert read.final.rows[0].per_seed(part).keys() == row.per_seed(part).keys()
    assert "unlearning/distance" in row.per_seed("validation")
    assert "unlearning/distance" not in row.per_seed("test")
    assert "unlearning/gap_to_chance" in row.per_seed("test")


def test_mlflow_has_the_metrics_after_each_task_and_the_matrices(found: StudyResult, results: Path) -> None:
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("forgetful").experiment_id
    for record in (found.records[0], found.references[0]):
        runs = client.search_runs([experiment])
        (run,) = [run for run in runs if run.data.tags["label"].split()[0] == record.label]
        history = client.get_metric_history(run.info.run_id, "unlearning/gap_to_chance")
        measured = unlearning_measurements(record)
        expected = {t: metrics.unlearning(measured, t)["unlearning/gap_to_chance"].mean().item() for t in (2, 3, 4)}
        assert {point.step: point.value for point in history} == pytest.approx(expected)
        steps = client.get_metric_history(run.info.run_id, "unlearning/distance")
        assert sorted(point.step for point in steps) == [2, 4]
        assert run.data.params["unlearn"] == "2:1 4:3"
        content = json.loads(Path(client.download_artifacts(run.info.run_id, "unlearning.json")).read_text())
        assert content["seeds"] == [0, 1]
        np.testing.assert_allclose(np.array(content["before"], dtype=float)[:, 2], measured["before"][:, 2], rtol=1e-7)
    (parent,) = client.search_runs([experiment], "tags.kind = 'study'")
    assert "unlearning/distance" in parent.data.metrics


def test_the_end_says_what_was_taken_and_what_the_trade_off_is(told: tuple[StudyResult, str]) -> None:
    found, said = told
    best = found.ranking.trials[0]
    assert (
        f"Final distance of the features to a model that never saw them: {best.metrics['unlearning/distance']:.2f}"
        in said
    )
    for beginning in (
        "After task 2, task 1 unlearned: accuracy from ",
        "After task 4, task 3 unlearned: ",
        "Trade-off: ",
    ):
        assert said.count(beginning) == 1
    report = (found.plan.folder / "report.html").read_text()
    assert 'id="unlearning"' in report
    assert 'id="figure-unlearning"' in report


def test_a_trial_trained_again_is_equal_in_all_its_matrices(
    found: StudyResult, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerun", str(found.plan.folder), "--trial", "3"]) == 0
    assert "trial 3: equal, bit for bit (2 seeds, 4 tasks)" in capsys.readouterr().out


def test_a_study_that_is_done_trains_nothing_again(found: StudyResult, capsys: pytest.CaptureFixture[str]) -> None:
    again = Study(name="forgetful", results=found.plan.folder.parent, trials=5, report_seeds=2, **SETTINGS).run()
    assert "training models that never see" not in capsys.readouterr().err
    assert again.choice == found.choice
    assert [r.seconds for r in again.records] == [r.seconds for r in found.records]


def test_a_study_goes_on_across_a_request_bit_for_bit(ray_session: str, results: Path) -> None:
    folder, settings = results / "cut-forgetful", SETTINGS | {"epochs": 20, "final": False, "references": ()}

    def learned() -> bool:
        return any(
            json.loads(path.read_text())["tasks_learned"] in (2, 3)
            for path in folder.glob("trials/trial_*/record.json")
        )

    def interrupt() -> None:
        wait_for(learned)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    cut = Study(name=folder.name, results=results, trials=2, **settings).run()
    interrupter.join()
    assert cut.exit_code == 130
    done = Study(name=folder.name, results=results, trials=2, **settings).run()
    assert [r.state for r in done.records] == ["finished"] * 2
    for record in done.records:
        expected = in_peace(record)
        np.testing.assert_array_equal(accuracy_matrices(record), expected.accuracy)
        for name, values in expected.unlearning.items():
            np.testing.assert_allclose(unlearning_measurements(record)[name], values, rtol=1e-6, atol=1e-9)
