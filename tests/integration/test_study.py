"""Tiny studies with the real Ray Tune, Optuna and MLflow, and what they leave behind."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from scipy import stats

from clsearch import LogRange, Range, Study, metrics
from clsearch.common.formatting import relative_path
from clsearch.data.datasets import read_data
from clsearch.execution.data_loading import load
from clsearch.execution.final_evaluation import measure
from clsearch.execution.preflight import check
from clsearch.execution.run_study import execute
from clsearch.methods.registry import configure
from clsearch.records.test_ledger import read_openings
from clsearch.records.trials import TrialRecord
from clsearch.reporting.result import StudyResult
from clsearch.reporting.trial_names import format_run_name
from clsearch.tasks.test_data import read_test
from clsearch.training.loop import learn_sequence
from clsearch.training.trial_setup import build_trial

LWF_SPACE = {"distillation_factor": LogRange(0.1, 10), "distillation_temperature": LogRange(0.5, 5)}
TINY = {"hidden": (16,), "epochs": 1, "trials": 3, "seeds": 2, "final": False}


@pytest.fixture(scope="module")
def lwf_and_its_words(ray_session: str, results: Path) -> tuple[StudyResult, str]:
    """A study with a final evaluation, and what it printed."""
    settings = TINY | {"final": True, "report_seeds": 2}
    study = Study(algorithm="lwf", space=LWF_SPACE, question="Why?", name="lwf", results=results, **settings)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        return study.run(), said.getvalue()


@pytest.fixture(scope="module")
def lwf(lwf_and_its_words: tuple[StudyResult, str]) -> StudyResult:
    return lwf_and_its_words[0]


@pytest.fixture(scope="module")
def client(results: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{results}/mlflow.db")


def optuna_study(result: StudyResult) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(result.plan.folder / "optuna.journal")))
    return optuna.load_study(study_name=result.plan.options.name, storage=storage)


def runs_of(client: MlflowClient, study: str, kind: str) -> list:
    experiment = client.get_experiment_by_name(study)
    return client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'", order_by=["tags.label"])


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


def test_an_interrupt_after_a_study_is_an_interrupt(lwf: StudyResult) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_trial_measured_what_its_configuration_gives_without_ray(lwf: StudyResult) -> None:
    record = lwf.records[1]
    run = build_trial(configure("lwf", {**record.settings}), record.seeds)
    np.testing.assert_array_equal(np.array(record.accuracy, dtype=float)[:, 1:], learn_sequence(run).accuracy[:, 1:])


def test_the_first_task_is_trained_once_and_what_that_saved_is_said(
    lwf_and_its_words: tuple[StudyResult, str], results: Path
) -> None:
    found, text = lwf_and_its_words
    taken = [record.label for record in [*found.records, *found.references] if record.shared_seconds > 0]
    assert len(taken) >= 3  # all but the one that trained it, and that one, too, where another study had
    assert list((results / ".prefixes").glob("*.pt"))
    assert "were reused from a trial with an equal first task" in " ".join(text.split())
    assert found.cost.saved == sum(record.shared_seconds for record in found.records)


def test_a_finetuning_reference_on_the_same_seeds_runs_beside_the_search(lwf: StudyResult) -> None:
    (reference,) = lwf.references
    settings = {k: v for k, v in reference.settings.items() if v is not None}
    state = learn_sequence(build_trial(configure("finetuning", settings), lwf.plan.seeds))
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


# The final evaluation


def measured_without_ray(lwf: StudyResult, configuration: str) -> dict[str, np.ndarray]:
    """R of each part [M, T+1, T], of the choice or finetuning on the fresh seeds."""
    values, algorithm = (lwf.best.values, None) if configuration == "chosen" else ({}, configuration)
    config = lwf.plan.trial_config(values, algorithm)
    found = measure(config, (1000, 1001), read_data(config.source, None), read_test(config))
    return {part: found[part].numpy() for part in ("validation", "test")}


def ends(values: np.ndarray) -> tuple[float, float]:
    """Of the 95 % interval of the mean of two seeds: Student's t with one degree of freedom."""
    half = stats.t.ppf(0.975, 1) * stats.sem(values)
    return values.mean() - half, values.mean() + half


@pytest.mark.parametrize("configuration", ["chosen", "finetuning"])
def test_final_files_agree_with_each_other_and_with_what_is_measured_without_ray(
    lwf: StudyResult, configuration: str
) -> None:
    folder = lwf.plan.folder
    content = json.loads((folder / "final.json").read_text())
    table, cells = pd.read_csv(folder / "final.csv"), pd.read_csv(folder / "final_accuracy.csv")
    (row,) = [row for row in content["rows"] if row["configuration"] == configuration]
    assert (row["on"], row["tasks"], row["reason"]) == ("full_sequence", [1, 2, 3, 4, 5], "")
    for part, expected in measured_without_ray(lwf, configuration).items():
        (line,) = table[(table.configuration == configuration) & (table.part == part)].to_dict("records")
        own = cells[(cells.configuration == configuration) & (cells.part == part)]
        assert list(own.seed) == [1000] * 6 + [1001] * 6
        matrix = own.filter(like="task_").to_numpy().reshape(2, 6, 5)
        np.testing.assert_array_equal(matrix, expected)
        for name, values in metrics.summary(torch.from_numpy(expected), 5).items():
            bounds = pytest.approx([values.mean().item(), *ends(values.numpy())])
            assert [row[part][name][end] for end in ("mean", "low", "high")] == bounds
            assert [line[name], line[f"{name}/low"], line[f"{name}/high"]] == bounds


def test_the_choice_is_what_the_search_believed_to_be_best(lwf: StudyResult) -> None:
    content = json.loads((lwf.plan.folder / "final.json").read_text())
    assert content["choice"]["label"] == lwf.best.label
    assert content["choice"]["values"] == lwf.best.values
    assert content["seeds"] == {"selecting": [0, 1], "reporting": [1000, 1001]}
    (optimism,) = content["optimism"]
    assert optimism["believed"] == lwf.best.metrics["average_accuracy"]
    for part in ("validation", "test"):
        mean = measured_without_ray(lwf, "chosen")[part][:, 5].mean()
        assert optimism[f"against_{part}"] == pytest.approx(optimism["believed"] - mean)
    assert [row["configuration"] for row in content["rows"]] == ["chosen", "finetuning"]


def test_one_opening_is_in_the_ledger_and_in_the_record(lwf: StudyResult, results: Path) -> None:
    ledger = read_openings(results)
    (place,) = [i for i, line in enumerate(ledger) if line["study"] == "lwf"]
    opening = ledger[place]
    assert (opening["data"], opening["algorithm"], opening["seeds"]) == ("digits", "lwf", [1000, 1001])
    assert opening["values"] == lwf.best.values
    assert opening["before"] == sum(line["data"] == "digits" for line in ledger[:place])
    assert json.loads((lwf.plan.folder / "final.json").read_text())["openings"] == [opening]


def test_mlflow_has_a_child_for_each_configuration_of_the_final_evaluation(
    lwf: StudyResult, client: MlflowClient
) -> None:
    (parent,) = runs_of(client, "lwf", "study")
    runs = {run.data.tags["algorithm"]: run for run in runs_of(client, "lwf", "final")}
    assert set(runs) == {"lwf", "finetuning"}
    for algorithm, run in runs.items():
        assert (run.info.status, run.data.tags["mlflow.parentRunId"]) == ("FINISHED", parent.info.run_id)
        matrix = measured_without_ray(lwf, "chosen" if algorithm == "lwf" else algorithm)["test"]
        expected = [matrix[:, t, :t].mean() for t in range(1, 6)]
        history = client.get_metric_history(run.info.run_id, "test/average_accuracy")
        assert sorted({point.step for point in history}) == [1, 2, 3, 4, 5]
        assert all(point.value == pytest.approx(expected[point.step - 1]) for point in history)
        assert {"test/average_forgetting/high", "validation/average_accuracy/std"} <= set(run.data.metrics)


def test_the_study_in_mlflow_has_its_choices_test_accuracy_and_when_it_was_measured(
    lwf: StudyResult, client: MlflowClient
) -> None:
    (parent,) = runs_of(client, "lwf", "study")
    scores = measured_without_ray(lwf, "chosen")["test"][:, 5].mean(axis=1)
    found = [parent.data.metrics[f"test/average_accuracy{end}"] for end in ("", "/low", "/high")]
    assert found == pytest.approx([scores.mean(), *ends(scores)])
    assert parent.data.metrics["average_accuracy"] == pytest.approx(lwf.best.metrics["average_accuracy"])
    (opening,) = lwf.final.openings
    tags = parent.data.tags
    assert (tags["test_opened"], tags["test_openings_before"]) == (opening.when, str(opening.before))
    assert {"best.json", "final.json"} <= {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}


def test_a_study_prints_one_table_of_its_final_evaluation_and_one_sentence_of_optimism(
    lwf_and_its_words: tuple[StudyResult, str],
) -> None:
    found, text = lwf_and_its_words
    assert text.count("Final evaluation on 2 fresh seeds (1000 to 1001)") == 1
    assert text.count("Optimism: the search estimated") == 1
    assert text.count("was opened once for this evaluation") == 1
    mean = measured_without_ray(found, "chosen")["test"][:, 5].mean()
    (line,) = [line for line in text.splitlines() if line.split()[:2] == ["chosen", "lwf"]]
    assert f" {100 * mean:.2f} (" in line
    assert "final.json" in text


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


def test_nsga2_goes_through_two_generations_past_a_trial_that_diverges(ray_session: str, results: Path) -> None:
    own = {"trials": 8, "tasks": 2, "references": (), "sampler": "nsga2", "max_concurrent": 1}
    result = Study(
        algorithm="ewc",
        space={"penalty_factor": LogRange(1e-3, 1e12)},  # its upper part diverges
        name="genetic",
        results=results,
        objectives=("average_accuracy", "average_forgetting"),
        **TINY | own,
    ).run()
    assert result.exit_code == 0
    states = [record.state for record in result.records]
    assert (len(states), set(states)) == (8, {"finished", "failed"})
    study = optuna_study(result)
    told = {"finished": "COMPLETE", "failed": "PRUNED"}
    assert [trial.state.name for trial in study.trials] == [told[state] for state in states]
    generations = [next(v for k, v in t.system_attrs.items() if k.endswith("generation")) for t in study.trials]
    assert set(generations) == {0, 1}
    assert {f"trial_{trial.number:05d}" for trial in study.best_trials} == set(result.ranking.front)
    front = pd.read_csv(result.plan.folder / "front.csv")
    assert tuple(front.label) == tuple(r.label for r in result.ranking.trials if r.label in result.ranking.front)
    assert result.best.label in result.ranking.front


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
    states = {run.data.tags["label"].split()[0]: run.info.status for run in runs_of(client, "early", "trial")}
    assert states == {"trial_00000": "FINISHED", "trial_00001": "FAILED"}


def test_a_study_of_which_no_trial_finishes_exits_with_1_and_says_so(
    ray_session: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**TINY, "trials": 2, "hidden": (256, 256)}
    study = Study(
        algorithm="lwf",
        space={"learning_rate": LogRange(0.05, 1e12)},  # its low end trains; the two values of this sampler do not
        name="lost",
        results=results,
        sampler="random",
        sampler_seed=1,
        references=("finetuning", "joint"),
        **settings,
    )
    with pytest.raises(SystemExit) as ended:
        study.main([])
    assert ended.value.code == 1
    assert "No trial finished" in capsys.readouterr().out
    assert json.loads((results / "lost" / "best.json").read_text())["label"] is None
    assert len(pd.read_csv(results / "lost" / "references.csv")) == 0  # there is no best rate for them to take


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
    assert (program, path) == (relative_path(Path(sys.executable)), "studies/ewc.py")
    with pytest.raises(SystemExit) as again:
        script().main(args)
    assert again.value.code == 0
    repeated = json.loads((results / "ewc-best" / "best.json").read_text())
    assert repeated["metrics"] == best["metrics"]


def test_a_study_on_mnist_files_runs_without_the_test_files(
    ray_session: str, results: Path, write_mnist: Callable[..., None], tmp_path: Path
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
        references=("finetuning", "joint", "independent"),
        **settings,
    )
    result = study.run()
    assert [r.state for r in [*result.records, *result.references]] == ["finished"] * 4
    assert (result.exit_code, result.final, result.unsealed) == (0, None, "")
    assert not list((tmp_path / "MNIST" / "raw").glob("t10k*"))
    assert not (result.plan.folder / "final.json").exists()
    assert "mnist" not in [line["study"] for line in read_openings(results)]


def test_test_files_that_are_gone_when_they_are_opened_cost_no_result_of_the_search(
    ray_session: str,
    results: Path,
    client: MlflowClient,
    write_mnist: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for part in ("train", "t10k"):
        write_mnist(tmp_path, part)
    own = {"final": True, "report_seeds": 2, "trials": 1, "benchmark": "split-mnist", "data_root": tmp_path}
    plan = Study(algorithm="lwf", space=LWF_SPACE, name="sealed", results=results, **TINY | own).plan
    check(plan)
    held = [load(plan)]
    for path in (tmp_path / "MNIST" / "raw").glob("t10k*"):
        path.unlink()
    result = execute(plan, held.pop)
    printed = " ".join(capsys.readouterr().out.split())
    assert [r.state for r in [*result.records, *result.references]] == ["finished"] * 2
    assert result.best.number == 0
    assert result.final is None
    assert result.unsealed.startswith("data_root: the files of split-mnist must be whole; got: ")
    assert str(tmp_path) in result.unsealed
    assert result.exit_code == 1
    assert "Best configuration (trial 0)" in printed
    assert f"No final evaluation: {result.unsealed}" in printed
    best = json.loads((plan.folder / "best.json").read_text())
    assert best["metrics"]["average_accuracy"] == result.best.metrics["average_accuracy"]
    assert list(pd.read_csv(plan.folder / "trials.csv").state) == ["finished"]
    kept = json.loads((plan.folder / "final.json").read_text())
    assert ([line["study"] for line in kept["openings"]], kept["rows"]) == (["sealed"], [])
    (parent,) = runs_of(client, "sealed", "study")
    assert (parent.info.status, parent.data.tags["state"]) == ("FAILED", "failed")
    assert parent.data.metrics["average_accuracy"] == pytest.approx(result.best.metrics["average_accuracy"])
    assert [run.info.status for run in runs_of(client, "sealed", "trial")] == ["FINISHED"]
    assert runs_of(client, "sealed", "final") == []
    # Counted, though nothing could be read: the ledger is written before a file is touched.
    assert [line["study"] for line in read_openings(results) if line["data"] == "mnist"] == ["sealed"]


# Two regularizers, three references, tasks of unequal size

NAMES = ("joint", "finetuning", "independent")


@pytest.fixture(scope="module")
def both(ray_session: str, results: Path) -> StudyResult:
    return Study(
        algorithm="lwf_ewc",
        name="both",
        results=results,
        references=NAMES,
        preset="clarena-first",
        classes_per_task=(4, 2, 3),
        class_order="shuffled",
        **(TINY | {"trials": 2, "batch_size": 14}),
    ).run()


def expected_intransigence(result: StudyResult, record: TrialRecord) -> list[float]:
    """Seed by seed, from the matrices."""
    joint = next(np.array(r.accuracy, dtype=float) for r in result.references if r.algorithm == "joint")
    own = np.array(record.accuracy, dtype=float)
    return [float(np.mean([joint[m, j, j - 1] - own[m, j, j - 1] for j in (1, 2, 3)])) for m in range(2)]


def test_both_regularizers_at_once_are_searched_over_ranges_that_follow_the_preset(both: StudyResult) -> None:
    content = json.loads((both.plan.folder / "study.json").read_text())
    names = ["distillation_factor", "distillation_temperature", "penalty_factor", "penalty_p_norm"]
    assert list(content["space"]) == names
    assert content["space"]["penalty_factor"]["low"] == pytest.approx(0.1 * 14 * (64 * 16 + 16), rel=0.34)
    assert (content["config"]["fisher"], content["config"]["classes_per_task"]) == ("batch", [4, 2, 3])
    assert {r.state for r in both.records} <= {"finished", "failed"}
    assert both.best is not None
    assert (both.plan.folder / "response.png").exists()


def test_references_are_rows_in_the_order_that_the_study_names_them(both: StudyResult) -> None:
    table = pd.read_csv(both.plan.folder / "references.csv")
    assert tuple(table.algorithm) == NAMES
    assert set(table.state) == {"finished"}
    assert (table.seconds > 0).all()
    assert set(json.loads((both.plan.folder / "best.json").read_text())["references"]) == set(NAMES)


def test_references_measured_what_their_configurations_give_without_ray(both: StudyResult) -> None:
    for record in both.references:
        settings = {k: v for k, v in record.settings.items() if v is not None}
        assert settings["classes_per_task"] == [4, 2, 3]
        state = learn_sequence(build_trial(configure(record.algorithm, settings), record.seeds))
        np.testing.assert_array_equal(np.array(record.accuracy, dtype=float)[:, 1:], state.accuracy[:, 1:])


def test_intransigence_of_finished_records_is_in_the_tables_the_records_and_mlflow_at_the_last_step(
    both: StudyResult, client: MlflowClient
) -> None:
    folder = both.plan.folder
    tables = pd.concat([pd.read_csv(folder / f"{name}.csv") for name in ("trials", "references")]).set_index("label")
    runs = {run.info.run_name: run for kind in ("trial", "reference") for run in runs_of(client, "both", kind)}
    for record in [*both.records, *both.references]:
        written = json.loads((folder / "trials" / record.label / "record.json").read_text())["metrics"]
        history = client.get_metric_history(runs[format_run_name(record)].info.run_id, "intransigence")
        if record.algorithm == "joint" or record.state == "failed":
            assert "intransigence" not in written
            assert math.isnan(tables.intransigence[record.label])
            assert history == []
            continue
        values = expected_intransigence(both, record)
        for found in (record.metrics, written, tables.loc[record.label]):
            assert found["intransigence"] == pytest.approx(np.mean(values))
            assert found["intransigence/std"] == pytest.approx(np.std(values, ddof=1))
        assert [(point.step, point.value) for point in history] == [(3, pytest.approx(np.mean(values)))]


def test_each_reference_is_a_run_of_its_own_that_ended(both: StudyResult, client: MlflowClient) -> None:
    runs = runs_of(client, "both", "reference")
    assert {run.data.tags["algorithm"] for run in runs} == set(NAMES)
    assert {run.info.run_name for run in runs} == {f"reference {name}" for name in NAMES}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.params["class_order"] for run in runs} == {"shuffled"}
    (parent,) = runs_of(client, "both", "study")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent.info.run_id}
    assert parent.data.metrics["intransigence"] == pytest.approx(both.best.metrics["intransigence"])


def test_members_of_unequal_size_have_rows_only_for_the_epochs_that_they_had(both: StudyResult) -> None:
    curve = pd.read_csv(both.plan.folder / "trials" / both.best.label / "learning_curve.csv")
    assert len(curve) == 2 * 3  # seeds x tasks, one epoch each
    assert not curve.loss.isna().any()
