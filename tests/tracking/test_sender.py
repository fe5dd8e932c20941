"""MLflow's records of a study, read back from a real SQLite store."""

import json
import math
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from scipy import stats

from clsearch import LogRange, Range
from clsearch.methods.registry import fields_of
from clsearch.records.attempts import METHOD_PHASE, RATE_PHASE, Attempt, Decision
from clsearch.records.evaluation import evaluation_json
from clsearch.records.study_file import description, finite
from clsearch.records.trial_metrics import metrics_after
from clsearch.records.trials import read_trials
from clsearch.records.writer import StudyWriter, code_version
from clsearch.reporting.trial_names import format_run_name, format_setting
from clsearch.tracking import sender as tracking
from clsearch.tracking.sender import Tracker, quiet
from clsearch.tracking.stores import default_store
from clsearch.tracking.study_runs import Runs
from tests.builders import closed_port, final_of, measured_of, plan_of, record_of

SPACE = {"penalty_factor": LogRange(0.1, 1000), "penalty_p_norm": Range(1, 3)}
VALUES = {"penalty_factor": 0.1 + 0.2, "penalty_p_norm": 1.5}
FOUND = {
    "metrics": {"average_accuracy": 0.7, "average_forgetting": float("inf")},
    "values": VALUES,
    "importance": {"penalty_factor": 0.75, "penalty_p_norm": 0.25},
    "trials": {"finished": 12, "failed": 1},
    "indistinguishable": ["trial_00001", "trial_00005"],
    "cost": {"task_trainings": 50, "seconds": 9.5},
    "command": None,
}
"""What best.json may hold."""
INTRANSIGENCE = {"intransigence": 0.25, "intransigence/std": 0.125}


@pytest.fixture(scope="module", autouse=True)
def _patience():
    """MLflow's own settings that `quiet` shortens, put back at the end."""
    settings = (
        mlflow.environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES,
        mlflow.environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT,
    )
    quiet()
    yield
    for setting in settings:
        setting.unset()


def tracker_of(plan, warnings, uri=None, study_id="an-id"):
    return Tracker(description(plan) | {"id": study_id}, plan.folder, uri, warnings.append)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One results folder for the module: its store takes 6 s to create."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def told(results, tmp_path_factory):
    """A study told to MLflow by a process in another folder, and read back: a trial that finished, one that diverged,
    one still running, one cut off, and a reference.
    """
    plan = plan_of(results, "ewc", space=SPACE, name="told", seeds=2, first_seed=4, scenario="domain", tasks=2)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = record_of(plan, 3, [0.8, 0.6], VALUES)
    lost = record_of(plan, 4, [0.8, 0.6], VALUES, state="failed", learned=0, reason="training diverged in epoch 1")
    reference = record_of(plan, None, [0.5, 0.6], algorithm="finetuning")
    running = record_of(plan, 5, [0.8, 0.6], VALUES, state="running", learned=1)
    cut = record_of(plan, 6, [0.8, 0.6], VALUES, state="unfinished", learned=1, reason="interrupted")
    warnings = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        tracker = tracker_of(plan, warnings)
        tracker.begin()
        tracker.update(replace(record_of(plan, 3, [0.7, 0.7], VALUES, learned=0), state="running"))
        tracker.update(record_of(plan, 3, [0.7, 0.7], VALUES, learned=1, state="running"))
        for record in (done, lost, reference, running, cut):
            tracker.update(record)
        tracker.add(
            replace(done, metrics=done.metrics | INTRANSIGENCE | {"intransigence_of_others": 1.0}), "intransigence"
        )
        tracker.described("# What it is")
        tracker.concluded(FOUND, 1)
        tracker.end("finished")
    assert warnings == []
    client = MlflowClient(default_store(plan.folder))
    experiment = client.get_experiment_by_name("told")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    return SimpleNamespace(
        plan=plan,
        client=client,
        experiment=experiment,
        runs=runs,
        parent=runs["told"],
        done=runs[format_run_name(done)],
        lost=runs[format_run_name(lost)],
        reference=runs["reference finetuning"],
        running=runs[format_run_name(running)],
        cut=runs[format_run_name(cut)],
        record=done,
        elsewhere=elsewhere,
    )


def artifacts(told, run):
    """The folder of a run's artifacts."""
    assert run.info.artifact_uri.startswith("file://")
    return told.plan.folder.parent / "mlartifacts" / told.plan.options.name / run.info.run_id / "artifacts"


def test_there_is_a_run_for_the_study_and_one_for_each_trial_and_reference(told):
    assert len(told.runs) == 6
    assert {r.data.tags["kind"] for r in told.runs.values()} == {"study", "trial", "reference"}


def test_trials_and_references_are_children_of_the_study(told):
    assert "mlflow.parentRunId" not in told.parent.data.tags
    for run in (told.done, told.lost, told.reference, told.running, told.cut):
        assert run.data.tags["mlflow.parentRunId"] == told.parent.info.run_id


def test_every_run_has_the_tags_that_lists_are_filtered_by(told):
    expected = {
        "study": "told",
        "benchmark": "split-digits",
        "scenario": "domain",
        "seeds": "4 5",
        "code_version": code_version(),
    }
    for run in told.runs.values():
        assert {k: run.data.tags[k] for k in expected} == expected


@pytest.mark.parametrize(
    ("name", "kind", "algorithm", "state", "status"),
    [
        ("parent", "study", "ewc", "finished", "FINISHED"),
        ("done", "trial", "ewc", "finished", "FINISHED"),
        ("lost", "trial", "ewc", "failed", "FAILED"),
        ("cut", "trial", "ewc", "unfinished", "KILLED"),
        ("reference", "reference", "finetuning", "finished", "FINISHED"),
    ],
)
def test_a_run_says_what_it_is_and_how_it_ended(told, name, kind, algorithm, state, status):
    run = getattr(told, name)
    tags = run.data.tags
    assert (tags["kind"], tags["algorithm"], tags["state"], run.info.status) == (kind, algorithm, state, status)
    assert run.info.end_time is not None


def test_a_diverged_trial_has_its_reason_and_the_others_none(told):
    assert told.lost.data.tags["reason"] == "training diverged in epoch 1"
    assert "reason" not in told.done.data.tags
    assert "average_accuracy" not in told.lost.data.metrics


def test_what_a_study_is_is_told_with_its_run_and_its_experiment(told):
    assert told.parent.data.tags["mlflow.note.content"] == "# What it is"
    assert told.experiment.tags["mlflow.note.content"] == "# What it is"


def test_a_trials_parameters_are_its_settings_flat_under_the_configurations_names(told):
    params = told.done.data.params
    assert set(params) == {*fields_of("ewc"), "algorithm", "seeds", "LOG10 factor"}
    assert float(params["penalty_factor"]) == VALUES["penalty_factor"]
    assert float(params["penalty_p_norm"]) == VALUES["penalty_p_norm"]
    assert params["seeds"] == "4 5"
    assert params["hidden"] == "8"
    assert (params["benchmark"], params["scenario"], params["tasks"]) == ("split-digits", "domain", "2")
    assert params["average_over_tasks"] == "False"


def test_a_references_parameters_are_those_that_act_in_it(told):
    assert set(told.reference.data.params) == {*fields_of("finetuning"), "algorithm", "seeds"}
    assert told.reference.data.params["algorithm"] == "finetuning"


def test_the_studys_parameters_are_what_its_trials_share_and_its_space(told):
    params = told.parent.data.params
    assert params["space/penalty_factor"] == "0.1 to 1000 (log)"
    assert params["space/penalty_p_norm"] == "1 to 3"
    assert not set(SPACE) & set(params)
    assert set(fields_of("ewc")) - set(SPACE) < set(params)
    assert told.parent.data.tags["trials"] == "32"  # which may change when a study goes on
    assert params["sampler"] == "tpe"


def history(told, run, name):
    return [(m.step, m.value) for m in told.client.get_metric_history(run.info.run_id, name)]


def test_metrics_have_a_history_whose_step_is_the_number_of_tasks_learned(told):
    assert history(told, told.done, "average_accuracy") == [(1, pytest.approx(0.7)), (2, pytest.approx(0.7))]
    assert history(told, told.done, "average_accuracy/std")[1] == (2, pytest.approx(0.2 / 2**0.5))
    assert [step for step, _ in history(told, told.done, "accuracy/task_01")] == [1, 2]
    assert [step for step, _ in history(told, told.done, "accuracy/task_02")] == [2]
    assert history(told, told.running, "average_accuracy") == [(1, pytest.approx(0.7))]


def test_the_last_metrics_are_the_records_and_every_one_but_seconds_has_its_spread(told):
    metrics = dict(told.done.data.metrics)
    assert metrics.pop("seconds") == told.record.seconds
    assert metrics == pytest.approx(told.record.metrics | INTRANSIGENCE)
    means = {name for name in metrics if not name.endswith("/std")}
    assert {f"{name}/std" for name in means} == set(metrics) - means


def test_a_metric_that_an_ended_trial_is_given_afterwards_is_logged_once_at_its_last_step(told):
    assert history(told, told.done, "intransigence") == [(2, 0.25)]
    assert history(told, told.done, "intransigence/std") == [(2, 0.125)]
    assert "intransigence_of_others" not in told.done.data.metrics
    assert [step for step, _ in history(told, told.done, "average_accuracy")] == [1, 2]
    assert told.done.info.status == "FINISHED"
    assert "intransigence" not in told.reference.data.metrics


def test_the_study_has_what_was_found_as_a_file_and_as_metrics(told):
    content = json.loads((artifacts(told, told.parent) / "best.json").read_text())
    assert content == finite(FOUND)
    assert told.parent.data.metrics == pytest.approx(
        {
            "average_accuracy": 0.7,  # an infinite one is none
            "best/penalty_factor": 0.1 + 0.2,
            "best/penalty_p_norm": 1.5,
            "importance/penalty_factor": 0.75,
            "importance/penalty_p_norm": 0.25,
            "trials/finished": 12,
            "trials/failed": 1,
            "trials/like_the_best": 2,
            "cost/task_trainings": 50,
            "cost/seconds": 9.5,
        }
    )
    assert history(told, told.parent, "best/penalty_factor") == [(2, 0.1 + 0.2)]


def test_the_guide_names_every_metric_tag_and_artifact(told, reported):
    guide = (Path(__file__).parents[2] / "docs" / "mlflow.md").read_text()
    runs = [told.parent, told.done, told.lost, *reported.runs.values()]
    found = {name for run in runs for name in [*run.data.metrics, *run.data.tags] if not name.startswith("mlflow.")}
    for word in ("/std", "/low", "/high", "validation/", "test/", "best/", "importance/", "optimism/"):
        found = {name.replace(word, "") for name in found}
        assert word.removesuffix("/") in guide
    found = {re.sub(r"task_\d\d", "task_01", name) for name in found} - {*VALUES}
    assert [name for name in sorted(found) if f"`{name}`" not in guide] == []


def test_a_trial_has_the_logarithm_of_what_was_searched_on_a_logarithmic_scale(told):
    params = told.done.data.params
    assert float(params["LOG10 factor"]) == pytest.approx(math.log10(0.3), abs=1e-5)
    assert "LOG10 p_norm" not in params
    assert not any(name.startswith("LOG10") for name in told.reference.data.params)


def test_the_accuracy_matrix_is_an_artifact_as_numbers_and_as_a_picture(told):
    folder = artifacts(told, told.done)
    content = json.loads((folder / "accuracy_matrix.json").read_text())
    assert content["seeds"] == [4, 5]
    assert np.array(content["accuracy"]) == pytest.approx(np.array(told.record.accuracy))
    assert (folder / "accuracy_matrix.png").read_bytes().startswith(b"\x89PNG")
    assert {a.path for a in told.client.list_artifacts(told.done.info.run_id)} == {
        "accuracy_matrix.json",
        "accuracy_matrix.png",
    }


def test_the_matrix_of_a_trial_that_was_cut_off_is_kept_as_far_as_it_came(told):
    content = json.loads((artifacts(told, told.cut) / "accuracy_matrix.json").read_text())
    assert content["accuracy"][0][2] == [None, None]
    assert None not in content["accuracy"][0][1]


@pytest.mark.parametrize("name", ["lost", "running"])
def test_a_trial_without_a_learned_task_or_an_end_has_no_matrix(told, name):
    assert told.client.list_artifacts(getattr(told, name).info.run_id) == []


def test_everything_lies_below_the_results_folder_whatever_the_working_directory(told):
    assert list(told.elsewhere.iterdir()) == []
    assert (told.plan.folder.parent / "mlflow.db").is_file()
    assert told.experiment.artifact_location == (told.plan.folder.parent / "mlartifacts" / "told").as_uri()


def sent(plan, records=(), uri=None, finished=True, study_id="an-id"):
    """Tell MLflow these records; gives the warnings."""
    warnings = []
    tracker = tracker_of(plan, warnings, uri, study_id)
    tracker.begin()
    for record in records:
        tracker.update(record)
    tracker.concluded({}, 1)
    tracker.end("finished" if finished else "failed")
    return warnings


def test_a_study_that_did_not_finish_is_failed(told, results):
    plan = plan_of(results, name="unfinished")
    assert sent(plan, finished=False) == []
    experiment = told.client.get_experiment_by_name("unfinished")
    (run,) = told.client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["state"]) == ("FAILED", "failed")


def test_studies_of_one_results_folder_share_a_store_and_not_an_experiment(told, results):
    assert sent(plan_of(results, name="second")) == []
    names = {e.name for e in told.client.search_experiments()}
    assert {"told", "second"} <= names


def test_a_study_that_started_over_is_another_run_of_the_same_experiment(told, results):
    plan = plan_of(results, name="again")
    for study_id in ("first", "second"):
        assert sent(plan, study_id=study_id) == []
    experiment = told.client.get_experiment_by_name("again")
    assert len(told.client.search_runs([experiment.experiment_id])) == 2


def contents(told, name):
    """Everything that MLflow holds of a study's runs, but when they ended."""
    experiment = told.client.get_experiment_by_name(name)
    found = {}
    for run in told.client.search_runs([experiment.experiment_id]):
        points = {
            key: sorted((m.step, m.value, m.timestamp) for m in told.client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
        }
        found[run.info.run_id] = (run.info.run_name, run.info.status, run.data.params, run.data.tags, points)
    return found


def timed(record):
    return replace(record, times=[1_700_000_000_000 + 1000 * i for i in range(record.tasks_learned)])


def test_a_study_that_goes_on_goes_on_in_the_runs_that_it_has(told, results):
    plan = plan_of(results, "ewc", space=SPACE, name="resumed", seeds=2, tasks=3)
    done = timed(record_of(plan, 0, [0.7, 0.7], VALUES))
    whole = timed(record_of(plan, 1, [0.8, 0.6], VALUES))
    part = replace(whole, tasks_learned=2, metrics=metrics_after(whole, 2))
    cut = [replace(part, state=state) for state in ("running", "unfinished")]
    assert sent(plan, [done, *cut], finished=False) == []
    before = contents(told, "resumed")
    assert sent(plan, [done, *cut], finished=False) == []
    assert contents(told, "resumed") == before
    assert sent(plan, [done, whole]) == []
    after = contents(told, "resumed")
    assert {*after} == {*before}  # the same runs
    (goes_on,) = [found for found in after.values() if found[0] == format_run_name(whole)]
    assert goes_on[1] == "FINISHED"
    assert [step for step, *_ in goes_on[4]["average_accuracy"]] == [1, 2, 3]
    (ended,) = [key for key, found in after.items() if found[0] == format_run_name(done)]
    assert after[ended] == before[ended]


def test_a_trial_whose_process_died_before_it_was_sent_is_sent_whole(told, results):
    """Of a record that was read back, with its curve from results/: every step has what a live one was sent."""
    plan = plan_of(results, "ewc", space=SPACE, name="late", seeds=2, tasks=3)
    done = timed(record_of(plan, 0, [0.7, 0.7], VALUES))
    live = [replace(done, state="running", tasks_learned=t, metrics=metrics_after(done, t)) for t in (1, 2)]
    done = replace(done, metrics=metrics_after(done, 3))
    assert sent(plan, [*live, done], study_id="live") == []
    kept = StudyWriter(plan)
    kept.write_trial(done)
    (found,) = read_trials(plan.folder).values()
    assert found.columns == []
    assert sent(plan, [found], study_id="late") == []
    by_study = {}
    for name, status, params, tags, points in contents(told, "late").values():
        if name == format_run_name(done):
            points.pop("seconds")
            by_study[tags["study_id"]] = (status, params, points)
    assert by_study["late"] == by_study["live"]
    assert [step for step, *_ in by_study["late"][2]["train/loss"]] == [1, 2, 3]


def test_a_run_that_a_server_made_after_nobody_waited_for_it_is_taken_away(told, results):
    plan = plan_of(results, "ewc", space=SPACE, name="twice", seeds=2, tasks=2)
    record = timed(record_of(plan, 0, [0.7, 0.7], VALUES))
    assert sent(plan, [record]) == []
    before = contents(told, "twice")
    (run,) = [run_id for run_id, found in before.items() if found[3]["label"].startswith("trial")]
    tags = {key: before[run][3][key] for key in ("study_id", "label", "kind")} | {"state": "running"}
    experiment = told.client.get_experiment_by_name("twice").experiment_id
    late = told.client.create_run(experiment, tags=tags, run_name="late").info.run_id
    assert late in contents(told, "twice")
    assert sent(plan, [record]) == []
    assert contents(told, "twice") == before


def test_a_reference_that_was_trained_again_at_another_rate_is_another_run(told, results):
    plan = plan_of(results, "ewc", space={"learning_rate": LogRange(0.01, 1)}, name="rates", seeds=2, tasks=2)
    both = [timed(record_of(plan, None, [0.5, 0.6], {"learning_rate": r}, algorithm="finetuning")) for r in (0.1, 0.2)]
    for record in both:
        assert sent(plan, [record]) == []
    runs = [found for found in contents(told, "rates").values() if found[3]["kind"] == "reference"]
    assert sorted(run[2]["learning_rate"] for run in runs) == ["0.1", "0.2"]


# The final evaluation

TWO_TASKS = {"space": SPACE, "seeds": 2, "tasks": 2, "references": ("finetuning", "joint"), "report_seeds": 2}
VALIDATION, TEST = [0.8, 0.6], [0.7, 0.6]


def client_of(results):
    return MlflowClient(f"sqlite:///{results}/mlflow.db")


def runs_of(results, name):
    """The runs of a study by their names."""
    client = client_of(results)
    experiment = client.get_experiment_by_name(name)
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def evaluated(plan, final, state="finished"):
    """Tell MLflow a final evaluation; gives its study's runs."""
    warnings = []
    tracker = tracker_of(plan, warnings)
    tracker.begin()
    tracker.concluded({"metrics": {"average_accuracy": 0.75}}, 1)
    tracker.opened(final.openings)
    tracker.evaluated(final)
    tracker.end(state)
    assert warnings == []
    return runs_of(plan.folder.parent, plan.options.name)


@pytest.fixture(scope="module")
def reported(told, results):
    """A final evaluation of which joint training diverged."""
    plan = plan_of(results, "ewc", name="reported", **TWO_TASKS)
    rows = [
        measured_of(plan, VALIDATION, TEST, forgetting=[0.1, 0.3]),
        measured_of(plan, [0.5, 0.5], [0.4, 0.5], "finetuning"),
        measured_of(plan, VALIDATION, TEST, "joint", reason="training diverged in epoch 1 of task 1"),
    ]
    final = final_of(plan, *rows, scores={"average_accuracy": 0.75}, before=[4])
    return SimpleNamespace(plan=plan, final=final, runs=evaluated(plan, final), client=told.client)


def test_each_configuration_of_the_final_evaluation_is_a_child_of_kind_final(reported):
    names = [f"final {name}, full sequence" for name in ("EWC (chosen)", "finetuning", "joint training")]
    assert set(reported.runs) == {"reported", *names}
    parent = reported.runs["reported"]
    assert parent.info.status == "FINISHED"
    for name, algorithm in zip(names, ("ewc", "finetuning", "joint"), strict=True):
        tags = reported.runs[name].data.tags
        assert (tags["kind"], tags["algorithm"], tags["seeds"]) == ("final", algorithm, "1000 1001")
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert reported.runs[name].data.params["seeds"] == "1000 1001"
        assert set(reported.runs[name].data.params) == {*fields_of(algorithm), "algorithm", "seeds"}
    assert parent.data.tags["seeds"] == "0 1"


@pytest.mark.parametrize(("part", "scores"), [("validation", VALIDATION), ("test", TEST)])
def test_metrics_of_the_final_evaluation_have_a_step_for_each_task_and_an_interval_after_the_last(
    reported, part, scores
):
    run = reported.runs["final EWC (chosen), full sequence"]
    found = {
        name: history(reported, run, f"{part}/{name}")
        for name in ("average_accuracy", "average_accuracy/std", "average_accuracy/low", "average_accuracy/high")
    }
    assert [step for step, _ in found["average_accuracy"]][:2] == [1, 2]
    assert found["average_accuracy"][-1] == (2, pytest.approx(sum(scores) / 2))
    assert found["average_accuracy/std"][-1] == (2, pytest.approx(stats.tstd(scores)))
    expected = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert found["average_accuracy/low"] == [(2, pytest.approx(expected.low))]
    assert found["average_accuracy/high"] == [(2, pytest.approx(expected.high))]
    assert [step for step, _ in history(reported, run, f"{part}/average_forgetting/low")] == [2]
    assert run.data.metrics[f"{part}/average_forgetting"] == pytest.approx(0.2)
    assert run.data.metrics[f"{part}/accuracy/task_01"] == pytest.approx(sum(scores) / 2 - 0.005)


def test_the_final_evaluation_has_its_matrices_as_numbers_and_as_pictures(reported):
    run, row = reported.runs["final EWC (chosen), full sequence"], reported.final.rows[0]
    for part in ("validation", "test"):
        content = json.loads((artifacts(reported, run) / f"accuracy_matrix_{part}.json").read_text())
        assert content["seeds"] == [1000, 1001]
        np.testing.assert_allclose(np.array(content["accuracy"], dtype=float), getattr(row, part).numpy())
        assert (artifacts(reported, run) / f"accuracy_matrix_{part}.png").read_bytes().startswith(b"\x89PNG")


def test_no_step_of_the_final_evaluation_is_told_twice(reported):
    run = reported.runs["final EWC (chosen), full sequence"]
    assert [step for step, _ in history(reported, run, "test/average_accuracy")] == [1, 2]


def test_a_configuration_that_diverged_on_fresh_seeds_is_failed_with_its_reason(reported):
    run = reported.runs["final joint training, full sequence"]
    assert (run.info.status, run.data.tags["state"]) == ("FAILED", "failed")
    assert run.data.tags["reason"] == "training diverged in epoch 1 of task 1"
    assert run.data.metrics == {}
    assert "reason" not in reported.runs["final finetuning, full sequence"].data.tags


def test_the_study_has_its_choices_test_metrics_and_when_test_data_was_opened(reported):
    parent = reported.runs["reported"]
    assert parent.data.metrics["average_accuracy"] == 0.75  # of the search
    bounds = stats.ttest_1samp(TEST, 0).confidence_interval(0.95)
    found = [parent.data.metrics[f"test/average_accuracy{end}"] for end in ("", "/low", "/high")]
    assert found == pytest.approx([0.65, bounds.low, bounds.high])
    assert history(reported, parent, "test/average_accuracy") == [(2, pytest.approx(0.65))]
    assert parent.data.metrics["optimism/average_accuracy"] == pytest.approx(0.75 - sum(VALIDATION) / 2)
    tags = parent.data.tags
    assert (tags["test_opened"], tags["test_openings_before"]) == ("2026-01-02T03:04:05+00:00", "4")
    content = json.loads((artifacts(reported, parent) / "final.json").read_text())
    assert content == json.loads(json.dumps(finite(evaluation_json(reported.final))))


def test_of_first_k_the_study_has_the_metrics_of_the_tasks_that_it_reports_on(told, results):
    plan = plan_of(results, "ewc", name="first", **TWO_TASKS | {"tasks": 5, "protocol": "first_k", "references": ()})
    rows = [measured_of(plan, VALIDATION, TEST, on="reported"), measured_of(plan, [0.5, 0.5], [0.4, 0.4])]
    runs = evaluated(plan, final_of(plan, *rows, scores={"average_accuracy": 0.75}))
    assert set(runs) == {"first", "final EWC (chosen), reported", "final EWC (chosen), full sequence"}
    found = {name: run.data.metrics.get("test/average_accuracy") for name, run in runs.items()}
    assert found == {
        "first": pytest.approx(0.65),
        "final EWC (chosen), reported": pytest.approx(0.65),
        "final EWC (chosen), full sequence": pytest.approx(0.4),
    }
    steps = [step for step, _ in history(told, runs["first"], "test/average_accuracy")]
    assert steps == [2]
    assert "test/accuracy/task_03" not in runs["final EWC (chosen), reported"].data.metrics


def test_one_reporting_seed_has_no_interval_and_no_spread(told, results):
    plan = plan_of(results, "ewc", name="single", **TWO_TASKS | {"report_seeds": 1, "references": ()})
    runs = evaluated(plan, final_of(plan, measured_of(plan, [0.8], [0.7]), scores={"average_accuracy": 0.75}))
    for run in runs.values():
        assert run.data.metrics["test/average_accuracy"] == pytest.approx(0.7)
        assert not [name for name in run.data.metrics if name.endswith(("/low", "/high", "/std"))]


def test_a_choice_that_differs_between_tasks_has_its_numbers_in_no_parameter(told, results):
    plan = plan_of(results, "ewc", name="per_task", **TWO_TASKS | {"references": ()})
    values = ({"penalty_factor": 3.0, "learning_rate": 0.1}, {"penalty_factor": 1.5, "learning_rate": 0.3})
    row = measured_of(plan, VALIDATION, TEST, per_task=values)
    run = evaluated(plan, final_of(plan, row, scores={}))["final EWC (chosen), full sequence"]
    assert {*fields_of("ewc")} - set(run.data.params) == {"penalty_factor", "learning_rate"}


# The continual protocol


def decided(plan, attempts, state):
    """Tell MLflow what was kept, after each task; gives the runs."""
    warnings, decision = [], Decision()
    tracker = tracker_of(plan, warnings)
    tracker.begin()
    for attempt in attempts:
        decision = decision.tried(attempt)
        if attempt.kept and attempt.phase == METHOD_PHASE:
            tracker.decided(decision)
    tracker.end(state)
    assert warnings == []
    return runs_of(plan.folder.parent, plan.options.name)


def attempts_of(*tasks):
    """One rate and two factors for each of these tasks, the second kept."""
    found = []
    for task in tasks:
        rate = {"learning_rate": task / 10}
        found.append(Attempt(task, RATE_PHASE, rate, (0.9, 0.9), None, 2, 1.0, kept=True))
        for factor, accuracy, kept in ((4.0, 0.5, False), (2.0, 0.8, True)):
            values = rate | {"penalty_factor": factor}
            found.append(Attempt(task, METHOD_PHASE, values, (accuracy, accuracy), 0.72, 2, 1.0, kept))
    return found


CONTINUAL = {"protocol": "continual", "space": {"penalty_factor": SPACE["penalty_factor"]}, "seeds": 2, "tasks": 2}


def test_what_continual_decided_is_one_child_with_a_step_for_each_task(told, results):
    runs = decided(plan_of(results, "ewc", name="decided", **CONTINUAL), attempts_of(1, 2), "finished")
    assert set(runs) == {"decided", "continual"}
    run = runs["continual"]
    assert run.data.tags["kind"] == "trial"
    assert run.data.tags["mlflow.parentRunId"] == runs["decided"].info.run_id
    assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "finished")
    assert history(told, run, "learning_rate") == [(1, 0.1), (2, 0.2)]
    assert history(told, run, "penalty_factor") == [(1, 2.0), (2, 2.0)]
    assert history(told, run, "accuracy") == [(1, 0.8), (2, 0.8)]
    assert history(told, run, "bar") == [(1, 0.72), (2, 0.72)]
    assert history(told, run, "attempts") == [(1, 3.0), (2, 3.0)]
    assert {*fields_of("ewc")} - set(run.data.params) == {"penalty_factor", "learning_rate"}


@pytest.mark.parametrize(("state", "status"), [("unfinished", "KILLED"), ("failed", "FAILED")])
def test_what_continual_decided_before_it_ended_early_ends_with_it(told, results, state, status):
    runs = decided(plan_of(results, "ewc", name=f"early-{state}", **CONTINUAL), attempts_of(1), state)
    assert {run.info.status for run in runs.values()} == {status}
    assert {run.data.tags["state"] for run in runs.values()} == {state}


def test_a_decision_that_was_complete_stays_finished_where_the_study_was_cut_off_after_it(told, results):
    runs = decided(plan_of(results, "ewc", name="cut-after", **CONTINUAL), attempts_of(1, 2), "unfinished")
    assert runs["cut-after"].info.status == "KILLED"
    assert runs["continual"].info.status == "FINISHED"


# Stores that break


def test_a_server_that_is_gone_is_told_once_and_the_study_goes_on(tmp_path):
    plan = plan_of(tmp_path)
    records = [record_of(plan, n, [0.5] * 3) for n in range(3)]
    with closed_port() as port:
        warning, end = sent(plan, records, f"http://127.0.0.1:{port}")
    assert "MLflow does not take records" in warning
    assert "the study goes on" in warning
    assert "MLflow has not all of the study, results/ has" in end
    assert list(tmp_path.iterdir()) == []


def test_a_uri_that_mlflow_does_not_know_is_told_once_too(tmp_path):
    plan = plan_of(tmp_path)
    warning, _ = sent(plan, [record_of(plan, 0, [0.5] * 3)], "gopher://somewhere")
    assert "gopher" in warning


def test_a_store_that_breaks_half_way_is_told_once_and_the_study_goes_on(told, results, tmp_path):
    shutil.copy(results / "mlflow.db", tmp_path / "mlflow.db")
    plan = plan_of(tmp_path, name="breaks")
    warnings = []
    tracker = tracker_of(plan, warnings)
    tracker.begin()
    tracker.update(record_of(plan, 0, [0.5] * 3))
    reached = threading.Event()
    tracker.tasks.put(lambda runs: reached.set())
    assert reached.wait(30)
    assert warnings == []
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    for n in range(1, 4):
        tracker.update(record_of(plan, n, [0.5] * 3))
    tracker.concluded({"metrics": {"average_accuracy": 0.5}}, 1)
    tracker.end("finished")
    assert len(warnings) == 2
    assert re.match(r"MLflow does not take records \(.*not a database", warnings[0])
    assert warnings[1].startswith("MLflow has not all of the study")


def test_what_a_store_that_was_away_missed_is_sent_when_it_is_back(told, results, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.2)
    plan = plan_of(results, "ewc", space=SPACE, name="away", seeds=2, tasks=2)
    warnings, back = [], threading.Event()
    tracker = tracker_of(plan, warnings)
    connect = Runs.connect

    def gone(runs):
        if not back.is_set():
            raise ConnectionError("nobody answers")
        connect(runs)

    tracker.begin()
    tracker.update(timed(record_of(plan, 0, [0.7, 0.7], VALUES, state="running", learned=1)))
    reached = threading.Event()
    tracker.tasks.put(lambda runs: reached.set())
    assert reached.wait(30)
    monkeypatch.setattr(Runs, "connect", gone)
    tracker.tasks.put(lambda runs: runs.connect())  # the store goes away
    tracker.update(timed(record_of(plan, 0, [0.7, 0.7], VALUES)))
    while not warnings:
        time.sleep(0.01)
    back.set()
    tracker.concluded({"metrics": {"average_accuracy": 0.7}}, 1)
    sent_all = threading.Event()
    tracker.tasks.put(lambda runs: sent_all.set())
    assert sent_all.wait(30)
    tracker.end("finished")
    assert len(warnings) == 1
    statuses = {name: status for name, status, *_ in contents(told, "away").values()}
    assert statuses == {"away": "FINISHED", "#0 EWC factor=0.3 p=1.5": "FINISHED"}


def test_a_record_that_a_store_refuses_does_not_hold_up_the_others(told, results):
    plan = plan_of(results, "ewc", space=SPACE, name="refused", seeds=2, tasks=2)
    warnings = []
    tracker = tracker_of(plan, warnings)
    tracker.begin()
    tried = []

    def refused(runs):
        tried.append(1)
        raise ValueError("no such name")

    tracker.tasks.put(refused)
    tracker.update(timed(record_of(plan, 0, [0.7, 0.7], VALUES)))
    tracker.end("finished")
    assert len(tried) == tracking.TRIES
    assert re.match(r"MLflow does not take records \(ValueError: no such name\)", warnings[0])
    assert warnings[1].startswith("MLflow has not all of the study")
    assert len(contents(told, "refused")) == 2


def test_a_store_whose_maker_was_killed_is_made_anew(tmp_path):
    """MLflow can't open a SQLite file whose tables were made in part."""
    half = "import sys, threading, os, time\nfrom pathlib import Path\n"
    half += "from clsearch.tracking.study_runs import new_store\n"
    half += "threading.Thread(target=new_store, args=(Path(sys.argv[1]),), daemon=True).start()\n"
    half += (
        "while not os.path.exists(sys.argv[1]) or os.path.getsize(sys.argv[1]) < 1:\n    time.sleep(0.001)\nos._exit(9)"
    )
    killed = tmp_path / ".mlflow.db.0123456789abcdef.tmp"
    subprocess.run([sys.executable, "-c", half, str(killed)], check=False)
    assert killed.stat().st_size
    plan = plan_of(tmp_path, name="first")
    assert sent(plan) == []
    assert not killed.exists()
    assert (
        len(client_of(tmp_path).search_runs([client_of(tmp_path).get_experiment_by_name("first").experiment_id])) == 1
    )


# Names


def test_a_runs_name_has_the_number_and_the_values_rounded(tmp_path):
    plan = plan_of(tmp_path, "ewc")
    name = format_run_name(record_of(plan, 17, [0.5] * 3, VALUES))
    assert name == "#17 EWC factor=0.3 p=1.5"
    assert format_run_name(record_of(plan, None, [0.5] * 3, algorithm="finetuning")) == "reference finetuning"


@pytest.mark.parametrize(
    ("value", "shown"),
    [((256, 128), "256 128"), ([8], "8"), (None, "None"), (0.1 + 0.2, "0.30000000000000004"), (True, "True")],
)
def test_a_setting_is_shown_as_the_command_line_takes_it(value, shown):
    assert format_setting(value) == shown


def test_the_studys_own_store_is_a_file_beside_it(tmp_path):
    assert default_store(plan_of(tmp_path, name="x").folder) == f"sqlite:///{tmp_path}/mlflow.db"


def test_an_error_without_words_is_told_too(tmp_path):
    warnings = []
    tracker = tracker_of(plan_of(tmp_path), warnings)
    tracker.thread.start()

    def hung(runs: Runs) -> None:
        raise TimeoutError

    tracker.tasks.put(hung)
    tracker.tasks.put(None)
    tracker.thread.join()
    (warning,) = warnings
    assert "TimeoutError" in warning


def test_the_step_at_which_a_trial_ended_is_in_its_history_once(told, results):
    plan = plan_of(results, "ewc", space=SPACE, name="ended", seeds=2, tasks=2)
    running = record_of(plan, 0, [0.8, 0.6], VALUES, state="running", learned=1)
    assert sent(plan, [running, replace(running, state="failed", reason="training diverged")]) == []
    experiment = told.client.get_experiment_by_name("ended")
    (run,) = told.client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    assert [m.step for m in told.client.get_metric_history(run.info.run_id, "average_accuracy")] == [1]


def test_artifacts_of_a_users_own_database_lie_below_results_too(told, results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_of(tmp_path / "results", "ewc", space=SPACE, name="own", seeds=2, tasks=2)
    sent(plan, [record_of(plan, 0, [0.8, 0.6], VALUES)], uri=default_store(told.plan.folder))
    assert list((tmp_path / "results" / "mlartifacts" / "own").glob("*/artifacts/accuracy_matrix.png"))
    assert not (tmp_path / "mlruns").exists()


def test_a_password_in_the_uri_is_not_in_the_warning(tmp_path):
    plan = plan_of(tmp_path)
    warnings = []
    tracker = tracker_of(plan, warnings, f"http://bob:secret@127.0.0.1:{closed_port()}")
    tracker.begin()
    tracker.end("failed")
    assert len(warnings) == 2
    assert "secret" not in "".join(warnings)
