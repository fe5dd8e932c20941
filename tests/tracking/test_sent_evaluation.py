"""What MLflow has of final evaluations and of what continual decided, read back from a real SQLite store."""

import json

import numpy as np
import pytest
from scipy import stats

from clsearch.methods.registry import fields_of
from clsearch.records.attempts import METHOD_PHASE, RATE_PHASE, Attempt, Decision
from clsearch.records.evaluation_file import evaluation_json
from clsearch.records.study_file import finite
from tests.builders import final_of, measured_of, plan_of
from tests.tracking.sending import (
    SPACE,
    TEST,
    TWO_TASKS,
    VALIDATION,
    artifacts,
    evaluated,
    history,
    runs_of,
    tracker_of,
)

pytestmark = pytest.mark.slow


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
        np.testing.assert_allclose(np.array(content["accuracy"], dtype=float), getattr(row, part))
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


def decided(plan, attempts, state):
    """Tell MLflow what was kept, after each task; gives the runs."""
    warnings, decision = [], Decision()
    tracker = tracker_of(plan, warnings)
    tracker.begin()
    for attempt in attempts:
        decision = decision.with_attempts(attempt)
        if attempt.kept and attempt.phase == METHOD_PHASE:
            tracker.send_decision(decision)
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
