"""MLflow's records of a study, read back from a real SQLite store."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clsearch import LogRange
from clsearch.config.plain_values import show_value
from clsearch.methods.registry import fields_of
from clsearch.records.ranking import best_json, rank
from clsearch.records.study_file import finite
from clsearch.records.trial_metrics import metrics_after
from clsearch.records.trials import read_trials
from clsearch.records.writer import StudyWriter, code_version
from clsearch.reporting.importances import Importances
from clsearch.reporting.trial_names import format_run_name, format_setting
from clsearch.tracking.stores import default_store
from clsearch.tracking.study_runs import Runs
from tests.builders import closed_port, plan_of, record_of
from tests.study_folders import mixed_study
from tests.tracking.sending import (
    FOUND,
    INTRANSIGENCE,
    SPACE,
    VALUES,
    artifacts,
    contents,
    history,
    runs_of,
    sent,
    timed,
    tracker_of,
)

pytestmark = pytest.mark.slow


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


def test_metrics_have_a_history_whose_step_is_the_number_of_tasks_learned(told):
    after_one = metrics_after(told.record, 1)["average_accuracy"]
    assert history(told, told.done, "average_accuracy") == [(1, pytest.approx(after_one)), (2, pytest.approx(0.7))]
    assert history(told, told.done, "average_accuracy/std")[1] == (2, pytest.approx(0.2 / 2**0.5))
    assert [step for step, _ in history(told, told.done, "accuracy/task_01")] == [1, 2]
    assert [step for step, _ in history(told, told.done, "accuracy/task_02")] == [2]
    assert history(told, told.running, "average_accuracy") == [(1, pytest.approx(0.7))]


def test_the_last_metrics_are_the_records_and_every_one_but_seconds_has_its_spread(told):
    own = told.done.data.metrics.items()  # those of a curve are in the metrics of a real record too
    metrics = {name: value for name, value in own if not name.startswith("train/")}
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
    left = {path.name for path in told.elsewhere.rglob("*")}
    assert left <= {"mlruns"}  # which older versions of MLflow make wherever they are used, and leave empty
    assert (told.plan.folder.parent / "mlflow.db").is_file()
    assert told.experiment.artifact_location == (told.plan.folder.parent / "mlartifacts" / "told").as_uri()


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


def test_an_error_without_words_is_told_too(tmp_path, store):
    shutil.copy(store, tmp_path)
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


def test_of_a_trial_only_the_latest_record_waits(tmp_path):
    plan = plan_of(tmp_path, "ewc", space=SPACE, seeds=2, tasks=3)
    done = record_of(plan, 0, [0.7, 0.7], VALUES)
    tracker = tracker_of(plan, [])
    for t in (1, 2, 3):
        tracker.update(replace(done, state="running", tasks_learned=t))
    tracker.update(done)
    assert tracker.tasks.qsize() == 1
    assert [*tracker.waiting.values()] == [done]


def test_a_password_in_the_uri_is_not_in_the_warning(tmp_path):
    plan = plan_of(tmp_path)
    warnings = []
    tracker = tracker_of(plan, warnings, f"http://bob:secret@127.0.0.1:{closed_port()}")
    tracker.begin()
    tracker.end("failed")
    assert len(warnings) == 2
    assert "secret" not in "".join(warnings)


def test_a_study_of_choices_has_its_parameters_its_names_and_its_choice(results):
    plan, records = mixed_study(results, name="mixed")
    warnings = sent(plan, records[:8])
    assert warnings == []
    runs = runs_of(results, "mixed")
    for record in records[:8]:
        params = runs[format_run_name(record)].data.params
        assert {name for name in plan.space if name in params} == {*record.values}
        assert params["optimizer"] == record.values["optimizer"]
        logs = {name for name in params if name.startswith("LOG10 ")}
        assert logs == {"LOG10 factor", "LOG10 batch_size", "LOG10 learning_rate"}
    parent = runs["mixed"].data.params
    assert parent["space/learning_rate/2"] == "0.0001 to 0.01 (log), if optimizer = adam"
    assert parent["space/hidden"] == "8, 8,8"


def test_the_choice_of_a_study_is_metrics_of_its_numbers_and_tags_of_the_rest(results):
    plan, records = mixed_study(results, name="chosen")
    best = next(record for record in records if record.values["optimizer"] == "adam" and record.state == "finished")
    found = Importances({"optimizer": 0.5}, {"learning_rate/2": 0.25})
    tracker = tracker_of(plan, warnings := [])
    tracker.begin()
    tracker.send_choice(best_json(plan, rank([best], plan.objectives), [best], []) | found.as_json(), 1)
    tracker.end("finished")
    assert warnings == []
    data = runs_of(results, "chosen")["chosen"].data
    numbers = {name for name in best.values if isinstance(best.values[name], float | int) and name != "train_head"}
    metrics = {name.removeprefix("best/"): value for name, value in data.metrics.items() if name.startswith("best/")}
    assert metrics == {name: best.values[name] for name in numbers}
    assert data.metrics["importance/learning_rate/2"] == 0.25
    tags = {name.removeprefix("best/"): value for name, value in data.tags.items() if name.startswith("best/")}
    unused = {name: "not used" for name in plan.space if name not in best.values}
    assert tags == unused | {name: show_value(best.values[name]) for name in best.values if name not in numbers}
    assert tags["decay"] == "not used"
