"""Where trials are run, and what is recorded of them, without a Ray cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.tune.experiment import Trial

from clsearch import Choice, IntRange, LogRange, Range, When
from clsearch.execution.messages import REQUEST, CohortRequest, reports_in
from clsearch.execution.recorder import Recorder
from clsearch.execution.structure import Suggestion
from clsearch.execution.trial_host import StudyHost
from clsearch.planning.plan import Plan
from clsearch.ray_runtime.supervision import SearchGuard, SearchStopped
from clsearch.records.ranking import cost_of
from clsearch.records.store import RecordStore
from clsearch.records.trials import read_trials
from clsearch.records.writer import StudyWriter
from tests.builders import plan_of, record_of, study_of
from tests.execution.reports import report_of, result_of

FACTOR = {"distillation_factor": LogRange(0.1, 10)}


class Tiny(torch.nn.Module):
    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(shape[1] * shape[2], 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1)).relu()


def tiny(shape: tuple[int, int, int]) -> Tiny:
    return Tiny(shape)


def host_of(plan: Plan, slots: int = 1) -> StudyHost:
    return StudyHost(plan, RecordStore(plan, StudyWriter(plan)), SearchGuard(), slots)


def asked_of(host: StudyHost, count: int, first: int = 0) -> tuple[CohortRequest, Trial]:
    """What a worker is asked for the next configurations, and Ray Tune's trial of it."""
    values = {f"trial_{n:05d}": {"distillation_factor": 1.0 + n} for n in range(first, first + count)}
    config = host.make_trial_config({label: suggestion(host.plan, one) for label, one in values.items()}, None)
    return config[REQUEST], Trial("LwFTrainable", config=config, stub=True)


def suggestion(plan: Plan, values: dict[str, Any], algorithm: str | None = None) -> Suggestion:
    return Suggestion(values, plan.trial_config(values, algorithm))


def states_in(host: StudyHost) -> dict[str, str]:
    return {label: record.state for label, record in host.store.records.items()}


def test_a_trial_is_handed_the_factory_and_its_record_has_the_name(tmp_path):
    plan = study_of(backbone=tiny, hidden=None, results=tmp_path).plan
    host, values = host_of(plan), {name: r.low for name, r in plan.space.items()}
    for label, algorithm in (("trial_00000", None), ("reference_finetuning", "finetuning")):
        (trial,) = host.make_trial_config({label: suggestion(plan, values, algorithm)}, algorithm)[REQUEST].trials
        assert trial.config.backbone is tiny
        assert trial.config.algorithm == algorithm or not algorithm
        record = host.store.records[label]
        assert record.settings["backbone"] == f"{__name__}.tiny"
        assert record.number == (None if algorithm else 0)


@pytest.mark.parametrize(
    ("waiting", "running", "slots", "capacity"),
    [
        (0, 0, 8, True),  # one trial for each worker that is not there, so that they start at the same time
        (7, 0, 8, True),
        (8, 0, 8, False),
        (5, 2, 8, True),
        (6, 2, 8, False),
        (0, 8, 8, True),  # one while all are busy
        (1, 8, 8, False),
        (0, 9, 4, True),  # more joined the cluster
        (1, 9, 4, False),
        (0, 1, 1, True),
        (1, 1, 1, False),
    ],
)
def test_trials_wait_for_workers_that_are_not_there_yet_and_for_those_that_will_be_free(
    tmp_path, waiting, running, slots, capacity
):
    plan = plan_of(tmp_path)
    host = host_of(plan, slots)
    states = ["waiting"] * waiting + ["running"] * running + ["finished", "failed"]
    records = {str(i): replace(record_of(plan, i, [0.5]), state=state) for i, state in enumerate(states)}
    host.store.records, host.groups = dict(records), [[label] for label in records]
    assert host.has_capacity() is capacity
    # Of configurations that train together, some may have ended before the others.
    ended = {f"{i}, ended": replace(record_of(plan, i, [0.5]), state="pruned") for i in range(len(states))}
    host.store.records, host.groups = records | ended, [[str(i), f"{i}, ended"] for i in range(len(states))]
    assert host.has_capacity() is capacity


def test_configurations_that_train_together_are_one_request(tmp_path):
    plan = plan_of(tmp_path, space=FACTOR, cohort=2)
    host = host_of(plan)
    request, _ = asked_of(host, 2)
    assert (request.label, request.labels) == ("trial_00000+1", ["trial_00000", "trial_00001"])
    assert (request.seeds, request.tasks, request.device) == (plan.seeds, plan.tasks, "cpu")
    assert request.first_tasks == tmp_path / ".prefixes"
    assert host.groups == [request.labels]
    for number, trial in enumerate(request.trials):
        assert trial.state_file == Path(tmp_path, "mine", "trials", trial.label, "state.pt")
        assert trial.config == plan.trial_config({"distillation_factor": 1.0 + number})
        record = host.store.records[trial.label]
        assert (record.number, record.values, record.cohort) == (number, {"distillation_factor": 1.0 + number}, 2)
        assert (record.state, record.settings["distillation_factor"]) == ("waiting", 1.0 + number)
    assert asked_of(host, 1, first=2)[0].label == "trial_00002"


@pytest.mark.parametrize(
    ("space", "values", "shared"),
    [
        ({"learning_rate": LogRange(0.01, 1)}, {"learning_rate": 0.1}, False),
        ({"optimizer": Choice("sgd", "adam")}, {"optimizer": "adam"}, True),
        ({"optimizer": Choice("sgd", "adam"), "epochs": IntRange(1, 4)}, {"optimizer": "adam", "epochs": 2}, True),
        ({"optimizer": Choice("sgd", "adam"), "epochs": IntRange(1, 5)}, {"optimizer": "adam", "epochs": 2}, False),
        ({"fisher": Choice("exact", "batch"), "penalty_factor": LogRange(1, 10)}, {"fisher": "batch"}, True),
        (
            [{"optimizer": Choice("sgd", "adam")}, When("optimizer", "sgd", {"momentum": Range(0, 0.9)})],
            {"optimizer": "adam"},
            True,
        ),
    ],
)
def test_a_first_task_is_kept_where_another_trial_probably_trains_it_alike(tmp_path, space, values, shared):
    plan = plan_of(tmp_path, "ewc", space=space, trials=16)
    found = host_of(plan).make_trial_config({"trial_00000": suggestion(plan, values)}, None)[REQUEST]
    assert found.first_tasks == (tmp_path / ".prefixes" if shared else None)


def test_a_refused_configuration_is_a_failed_trial_with_the_refusal_as_its_reason(tmp_path):
    space = {"optimizer": Choice("sgd", "adam"), "distillation_factor": LogRange(0.1, 10)}
    host = host_of(plan_of(tmp_path, space=space))
    values = {"optimizer": "adam", "distillation_factor": 2.0}
    host.record_refusal("trial_00003", values, "the configuration is refused: momentum: acts with sgd only")
    (record,) = read_trials(host.plan.folder).values()
    assert (record.state, record.number, record.values, record.tasks_learned) == ("failed", 3, values, 0)
    assert record.reason == "the configuration is refused: momentum: acts with sgd only"
    assert (record.settings["optimizer"], record.settings["epochs"]) == ("adam", 1)
    assert host.has_capacity()
    assert cost_of([record]).task_trainings == 0


# What Ray Tune's events become


def test_a_worker_that_goes_on_for_another_is_not_asked_for_what_has_ended(tmp_path):
    plan = plan_of(tmp_path, space=FACTOR, cohort=2)
    host = host_of(plan)
    _, trial = asked_of(host, 2)
    host.store.end_trial("trial_00000", "failed", "training diverged")
    Recorder(host.store, 3, host.guard).on_trial_recover(1, [trial], trial)
    assert trial.config[REQUEST].labels == ["trial_00001"]
    assert [record.restarts for record in host.store.records.values()] == [0, 1]
    assert states_in(host) == {"trial_00000": "failed", "trial_00001": "waiting"}


def test_reports_become_records_and_lose_their_matrices(tmp_path):
    plan = plan_of(tmp_path, space=FACTOR, cohort=2)
    host = host_of(plan)
    _, trial = asked_of(host, 2)
    recorder = Recorder(host.store, 3, host.guard)
    recorder.on_trial_start(1, [trial], trial)
    assert set(states_in(host).values()) == {"running"}
    lost = {"failed": "training diverged", "done": True}
    result = result_of(
        report_of("trial_00000", 1, 0.75, place="here", columns=("loss",)), report_of("trial_00001", 0, **lost)
    )
    recorder.on_trial_result(1, [trial], trial, result)
    first, second = host.store.records.values()
    assert (first.tasks_learned, first.metrics["average_accuracy"], first.place) == (1, 0.75, "here")
    assert first.times == [first.reported]
    assert (second.state, second.reason) == ("failed", "training diverged")
    assert reports_in(result)["trial_00000"].columns == ()
    assert {*read_trials(plan.folder)} == {"trial_00001"}  # of the other, at the end of the step
    recorder.on_step_end(1, [trial])
    assert read_trials(plan.folder)["trial_00000"].metrics == first.metrics


def test_a_trial_that_ends_early_without_a_reason_was_stopped(tmp_path):
    host = host_of(plan_of(tmp_path, space=FACTOR))
    recorder = Recorder(host.store, 3, host.guard)
    for number, learned in enumerate((2, 3)):
        _, trial = asked_of(host, 1, first=number)
        recorder.on_trial_result(1, [trial], trial, result_of(report_of(f"trial_0000{number}", learned, 0.5)))
        recorder.on_trial_complete(1, [trial], trial)
    assert [*states_in(host).values()] == ["pruned", "finished"]


def test_a_state_that_cannot_be_written_ends_the_search_at_the_end_of_the_step(tmp_path):
    host = host_of(plan_of(tmp_path, space=FACTOR))
    _, trial = asked_of(host, 1)
    recorder = Recorder(host.store, 3, host.guard)
    recorder.on_trial_result(1, [trial], trial, result_of(report_of("trial_00000", 1, 0.5, unwritable="disk full")))
    with pytest.raises(OSError, match="disk full"):
        recorder.on_step_end(1, [trial])
    assert read_trials(host.plan.folder) == {}  # nothing is written after what could not be


def test_the_user_is_told_of_a_damaged_file_once(tmp_path):
    host, said = host_of(plan_of(tmp_path, space=FACTOR, cohort=2)), []
    _, trial = asked_of(host, 2)
    recorder = Recorder(host.store, 3, host.guard, said.append)
    note = "its saved state was damaged (state.pt: no content), so it is trained from the start"
    recorder.on_trial_result(1, [trial], trial, result_of(report_of("trial_00000", 1, 0.5, note=note)))
    recorder.on_trial_result(1, [trial], trial, result_of(report_of("trial_00000", 2, 0.5)))
    assert said == [f"trial_00000: {note}"]


def test_a_trial_that_the_end_of_a_search_cuts_off_has_not_failed(tmp_path):
    host = host_of(plan_of(tmp_path, space=FACTOR))
    _, trial = asked_of(host, 1)
    recorder = Recorder(host.store, 3, host.guard)
    recorder.on_trial_start(1, [trial], trial)
    host.guard.stopping.set()
    assert host.is_ending()
    recorder.on_trial_error(1, [trial], trial)
    recorder.on_trial_recover(1, [trial], trial)
    assert (states_in(host), host.store.records["trial_00000"].restarts) == ({"trial_00000": "running"}, 0)


def test_a_search_that_was_left_behind_writes_nothing(tmp_path):
    host = host_of(plan_of(tmp_path, space=FACTOR))
    _, trial = asked_of(host, 1)
    recorder = Recorder(host.store, 3, host.guard)
    host.guard.run(lambda: None)
    result = result_of(report_of("trial_00000", 1, 0.5))
    for event in (
        lambda: recorder.on_trial_start(1, [trial], trial),
        lambda: recorder.on_trial_result(1, [trial], trial, result),
        lambda: recorder.on_trial_complete(1, [trial], trial),
        lambda: recorder.on_step_begin(1, [trial]),
        lambda: recorder.on_step_end(1, [trial]),
    ):
        with pytest.raises(SearchStopped):
            event()
    recorder.on_trial_error(1, [trial], trial)
    assert states_in(host) == {"trial_00000": "waiting"}
    assert read_trials(host.plan.folder) == {}
