"""Send studies to MLflow, and read them back."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from clsearch.reporting.trial_names import format_run_name
from clsearch.tracking.sender import quiet
from clsearch.tracking.stores import default_store
from tests.builders import final_of, measured_of, plan_of, record_of
from tests.tracking.sending import (
    FOUND,
    INTRANSIGENCE,
    SPACE,
    TEST,
    TWO_TASKS,
    VALIDATION,
    VALUES,
    client_of,
    evaluated,
    tracker_of,
)


@pytest.fixture(scope="package", autouse=True)
def _patience():
    """Put back the settings of MLflow that `quiet` shortens."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
            patch.setenv(name, "1")
        quiet()
        yield


@pytest.fixture(scope="package")
def results(tmp_path_factory, store):
    """Make a results folder that all of these tests share."""
    folder = tmp_path_factory.mktemp("results")
    shutil.copy(store, folder)
    return folder


@pytest.fixture(scope="package")
def told(results, tmp_path_factory):
    """Send a study to MLflow from another working folder, and read it back: a trial that finished, one that diverged,
    one that still runs, one that was interrupted, and a reference.
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
        tracker.send_description("# What it is")
        tracker.send_choice(FOUND, 1)
        tracker.end("finished")
    assert warnings == []
    client = client_of(results)
    assert client.tracking_uri == default_store(plan.folder)
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


@pytest.fixture(scope="package")
def reported(told, results):
    """Send a final evaluation in which joint training diverged."""
    plan = plan_of(results, "ewc", name="reported", **TWO_TASKS)
    rows = [
        measured_of(plan, VALIDATION, TEST, forgetting=[0.1, 0.3]),
        measured_of(plan, [0.5, 0.5], [0.4, 0.5], "finetuning"),
        measured_of(plan, VALIDATION, TEST, "joint", reason="training diverged in epoch 1 of task 1"),
    ]
    final = final_of(plan, *rows, scores={"average_accuracy": 0.75}, before=[4])
    return SimpleNamespace(plan=plan, final=final, runs=evaluated(plan, final), client=told.client)
