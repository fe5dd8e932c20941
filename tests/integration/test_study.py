"""Tiny studies with the real Ray Tune, Optuna and MLflow, and what they leave behind."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from clsearch import LogRange, Range, Study
from clsearch.core.config import TrialConfig
from clsearch.core.loop import learn_sequence
from clsearch.core.run import build_run
from clsearch.tuning.display import near
from clsearch.tuning.driver import StudyResult

LWF_SPACE = {"distillation_factor": LogRange(0.1, 10), "distillation_temperature": LogRange(0.5, 5)}
TINY = {"hidden": (16,), "epochs": 1, "trials": 3, "seeds": 2}


@pytest.fixture(scope="module")
def lwf(ray_session: str, results: Path) -> StudyResult:
    return Study(algorithm="lwf", space=LWF_SPACE, question="Why?", name="lwf", results=results, **TINY).run()


@pytest.fixture(scope="module")
def client(results: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{results}/mlflow.db")


def optuna_study(result: StudyResult) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(result.plan.folder / "optuna.journal")))
    return optuna.load_study(study_name=result.plan.options.name, storage=storage)


def runs_of(client: MlflowClient, study: str, kind: str) -> list:
    experiment = client.get_experiment_by_name(study)
    return client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'", order_by=["attributes.start_time"])


def test_every_trial_has_a_row_with_hyperparameters_metrics_and_spread(lwf: StudyResult) -> None:
    table = pd.read_csv(lwf.plan.folder / "trials.csv")
    assert list(table.number) == [0, 1, 2]
    assert set(table.state) == {"finished"}
    assert table.distillation_factor.between(0.1, 10).all()
    assert table.distillation_temperature.between(0.5, 5).all()
    assert table.average_accuracy.between(0, 1).all()
    assert (table["average_accuracy/std"] >= 0).all()
    assert (table.seconds > 0).all()
    assert (table.tasks_learned == 5).all()
    reference = pd.read_csv(lwf.plan.folder / "references.csv")
    assert list(reference.algorithm) == ["finetuning"]


def test_a_trial_measured_what_its_configuration_gives_without_ray(lwf: StudyResult) -> None:
    record = lwf.records[1]
    run = build_run(TrialConfig.of("lwf", {**record.settings}), record.seeds)
    np.testing.assert_array_equal(np.array(record.accuracy, dtype=float)[:, 1:], learn_sequence(run).accuracy[:, 1:])


def test_a_finetuning_reference_on_the_same_seeds_runs_beside_the_search(lwf: StudyResult) -> None:
    (reference,) = lwf.references
    settings = {k: v for k, v in reference.settings.items() if v is not None}
    state = learn_sequence(build_run(TrialConfig.of("finetuning", settings), lwf.plan.seeds))
    np.testing.assert_array_equal(np.array(reference.accuracy)[:, 5], state.accuracy[:, 5])


def test_matrices_and_curves_are_kept_per_trial_and_seed(lwf: StudyResult) -> None:
    folder = lwf.plan.folder / "trials" / "trial_00002"
    matrix = pd.read_csv(folder / "accuracy.csv")
    assert list(matrix.groupby("seed").size()) == [6, 6]
    last = matrix[matrix.tasks_learned == 5].filter(like="task_").to_numpy()
    assert last.mean() == pytest.approx(lwf.records[2].metrics["average_accuracy"])
    curve = pd.read_csv(folder / "learning_curve.csv")
    assert len(curve) == 2 * 5  # seeds x tasks, one epoch each
    np.testing.assert_allclose(curve.loss, curve.loss_classification + curve.penalty, rtol=1e-5)
    assert not (folder / "state.pt").exists()  # a finished trial needs no checkpoint


def test_study_json_says_how_it_was_made(lwf: StudyResult) -> None:
    content = json.loads((lwf.plan.folder / "study.json").read_text())
    assert content["question"] == "Why?"
    assert content["space"]["distillation_factor"] == {"low": 0.1, "high": 10, "log": True}
    assert content["seeds"] == [0, 1]
    assert content["config"]["hidden"] == [16]
    assert "distillation_factor" not in content["config"]
    assert {"ray", "optuna", "mlflow", "torch"} <= set(content["versions"])
    assert content["commit"]


def test_best_json_holds_the_highest_finished_trial(lwf: StudyResult) -> None:
    content = json.loads((lwf.plan.folder / "best.json").read_text())
    table = pd.read_csv(lwf.plan.folder / "trials.csv")
    assert content["metrics"]["average_accuracy"] == pytest.approx(table.average_accuracy.max())
    assert content["values"] == pytest.approx(lwf.best.values)
    difference = content["references"]["finetuning"]["difference"]
    assert difference["low"] <= difference["mean"] <= difference["high"]


def test_optuna_storage_is_the_record_of_the_search(lwf: StudyResult) -> None:
    trials = optuna_study(lwf).get_trials()
    assert [t.state.name for t in trials] == ["COMPLETE"] * 3
    for trial, record in zip(trials, lwf.records, strict=True):
        assert trial.params == pytest.approx(record.values)
        assert trial.value == pytest.approx(record.metrics["average_accuracy"])
        assert sorted(trial.intermediate_values) == [1, 2, 3, 4, 5]


def test_mlflow_has_a_parent_and_a_child_per_trial(lwf: StudyResult, client: MlflowClient) -> None:
    (parent,) = runs_of(client, "lwf", "study")
    children = runs_of(client, "lwf", "trial")
    references = runs_of(client, "lwf", "reference")
    assert (len(children), len(references)) == (3, 1)
    for child in [*children, *references]:
        assert child.info.status == "FINISHED"
        tags = child.data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert (tags["study"], tags["benchmark"], tags["scenario"]) == ("lwf", "split-digits", "task")
        assert (tags["seeds"], tags["state"]) == ("0 1", "finished")
        assert tags["code_version"]
    assert parent.info.status == "FINISHED"


def test_mlflow_children_hold_flat_params_and_metrics_per_task_learned(lwf: StudyResult, client: MlflowClient) -> None:
    for child, record in zip(runs_of(client, "lwf", "trial"), lwf.records, strict=True):
        for name, value in record.values.items():
            assert float(child.data.params[name]) == value
        assert child.data.params["hidden"] == "16"
        assert set(record.settings) <= set(child.data.params)
        history = client.get_metric_history(child.info.run_id, "average_accuracy")
        assert [point.step for point in history] == [1, 2, 3, 4, 5]
        assert history[-1].value == pytest.approx(record.metrics["average_accuracy"])
        forgotten = client.get_metric_history(child.info.run_id, "average_forgetting")
        assert [point.step for point in forgotten] == [2, 3, 4, 5]  # absent after one task, not 0
        names = set(child.data.metrics)
        assert {"accuracy/task_05", "forgetting/task_04", "backward_transfer", "learning_accuracy"} <= names
        assert {"train/loss", "train/loss_classification", "train/penalty", "train/accuracy", "train/kl"} <= names
        assert {"average_accuracy/std", "forgetting/task_01/std"} <= names


def test_mlflow_artifacts_lie_below_results(lwf: StudyResult, client: MlflowClient, results: Path) -> None:
    child = runs_of(client, "lwf", "trial")[0]
    assert {a.path for a in client.list_artifacts(child.info.run_id)} == {"accuracy_matrix.json", "accuracy_matrix.png"}
    folder = Path(child.info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(results)
    matrix = json.loads((folder / "accuracy_matrix.json").read_text())
    assert np.array(matrix["accuracy"]).shape == (2, 6, 5)


def test_a_diverging_trial_fails_with_its_reason_and_the_study_goes_on(
    ray_session: str, results: Path, client: MlflowClient
) -> None:
    study = Study(
        algorithm="ewc",
        space={"penalty_factor": LogRange(1e-3, 1e15)},  # SGD is stable only for small learning_rate * factor * Fisher
        name="diverging",
        results=results,
        sampler="grid",
        grid_points=2,
        **{k: v for k, v in TINY.items() if k != "trials"},
    )
    result = study.run()
    assert [r.state for r in result.records] == ["finished", "failed"]
    assert result.best.number == 0
    assert result.exit_code == 0
    table = pd.read_csv(result.plan.folder / "trials.csv")
    assert "diverged in epoch 1 of task 2" in table.reason[1]
    assert table.tasks_learned[1] == 1
    assert [t.state.name for t in optuna_study(result).get_trials()] == ["COMPLETE", "PRUNED"]
    failed = runs_of(client, "diverging", "trial")[1]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["state"] == "failed"
    assert "diverged" in failed.data.tags["reason"]
    assert all(math.isfinite(v) and abs(v) < 1e300 for v in failed.data.metrics.values())


def test_a_trial_that_diverges_in_its_first_task_has_no_score_and_stops_nothing(
    ray_session: str, results: Path, client: MlflowClient
) -> None:
    settings = {**TINY, "trials": None, "hidden": (256, 256)}
    study = Study(
        algorithm="lwf",
        space={"learning_rate": LogRange(0.05, 1e12)},
        name="early",
        results=results,
        sampler="grid",
        grid_points=2,
        **settings,
    )
    result = study.run()
    assert [r.state for r in result.records] == ["finished", "failed"]
    assert result.records[1].metrics == {}
    assert "task 1" in result.records[1].reason
    (trial,) = [t for t in optuna_study(result).get_trials() if t.number == 1]
    assert (trial.state.name, trial.intermediate_values) == ("PRUNED", {})
    assert runs_of(client, "early", "trial")[1].info.status == "FAILED"


def test_a_study_of_which_no_trial_finishes_exits_with_1_and_says_so(
    ray_session: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**TINY, "trials": 2}
    study = Study(
        algorithm="ewc",
        space={"penalty_p_norm": Range(2, 3)},
        name="lost",
        results=results,
        penalty_factor=1e15,
        **settings,
    )
    with pytest.raises(SystemExit) as ended:
        study.main([])
    assert ended.value.code == 1
    assert "No trial finished" in capsys.readouterr().out
    assert json.loads((results / "lost" / "best.json").read_text())["label"] is None


def test_the_printed_command_reruns_the_best_configuration(
    ray_session: str, results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def script() -> Study:
        space = {"penalty_factor": LogRange(0.1, 1e3), "penalty_p_norm": Range(1, 3)}
        return Study(algorithm="ewc", space=space, name="ewc", benchmark="permuted-digits", **(TINY | {"trials": 2}))

    monkeypatch.setattr("sys.argv", ["studies/ewc.py"])
    with pytest.raises(SystemExit) as ended:
        script().main(["--results", str(results), "--tasks", "3", "--seeds", "2"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    best = json.loads((results / "ewc" / "best.json").read_text())
    assert best["command"] in printed
    program, path, *args = shlex.split(best["command"])
    assert (program, path) == (near(Path(sys.executable)), "studies/ewc.py")
    with pytest.raises(SystemExit) as again:
        script().main(args)
    assert again.value.code == 0
    repeated = json.loads((results / "ewc-best" / "best.json").read_text())
    assert repeated["metrics"] == best["metrics"]


def test_a_study_on_mnist_files_runs_without_the_test_files(
    ray_session: str, results: Path, write_mnist: Callable[[Path], None], tmp_path: Path
) -> None:
    write_mnist(tmp_path)
    settings = {**TINY, "trials": 1}
    study = Study(
        algorithm="lwf",
        space=LWF_SPACE,
        name="mnist",
        results=results,
        benchmark="split-mnist",
        data_root=tmp_path,
        **settings,
    )
    result = study.run()
    assert [r.state for r in result.records] == ["finished"]
    assert not list((tmp_path / "MNIST" / "raw").glob("t10k*"))
