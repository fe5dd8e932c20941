"""A trial of Ray Tune that trains several configurations, used in this process without a Ray cluster."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle

from clsearch.config.trial import TrialConfig
from clsearch.execution.messages import (
    REPORTS,
    REQUEST,
    CohortRequest,
    TrialReport,
    TrialRequest,
    replace_reports,
    reports_in,
)
from clsearch.execution.trainable import STATE_FILE
from clsearch.methods.registry import configure
from clsearch.networks.mlp import MLP
from clsearch.trainables import EWCTrainable
from clsearch.training.loop import learn_sequence
from clsearch.training.trial_setup import build_trial

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {"hidden": (8,), "epochs": 1, "batch_size": 64, "tasks": 3}
FACTORS = {"a": 1.0, "b": 5.0, "c": 20.0}
SEEDS = [0, 1]


def cohort_of(folder: Path, factors: dict[str, float] | None = None, **more: object) -> dict[str, Any]:
    trials = [
        TrialRequest(label, config_of(factor, **more), folder / label / STATE_FILE)
        for label, factor in (factors or FACTORS).items()
    ]
    return {REQUEST: CohortRequest(tuple(trials), tuple(SEEDS))}


def config_of(factor: float, **more: object) -> TrialConfig:
    return configure("ewc", SETTINGS | {"penalty_factor": factor} | more)


def played(trainable: EWCTrainable) -> list[dict[str, Any]]:
    """The results of a trial up to its end."""
    results = [trainable.train()]
    while not results[-1]["done"]:
        results.append(trainable.train())
    return results


def moved(result: dict[str, Any]) -> dict[str, int]:
    """Label -> tasks learned, of those that a result tells of."""
    return {label: report.tasks_learned for label, report in reports_in(result).items()}


def matrix_of(factor: float) -> torch.Tensor:
    return learn_sequence(build_trial(config_of(factor), SEEDS)).accuracy


def assert_as_alone(results: list[dict[str, Any]], factors: dict[str, float] = FACTORS) -> None:
    last = {label: report for result in results for label, report in reports_in(result).items()}
    assert {*last} == {*factors}
    for label, factor in factors.items():
        assert last[label].done
        found = torch.tensor(last[label].accuracy)
        torch.testing.assert_close(found, matrix_of(factor), rtol=0, atol=1e-12, equal_nan=True)


def test_each_configuration_has_its_own_result_and_checkpoint(tmp_path):
    results = played(EWCTrainable(config=cohort_of(tmp_path)))
    assert [moved(result) for result in results] == [dict.fromkeys(FACTORS, t) for t in (1, 2, 3)]
    assert [[report.done for report in result[REPORTS]] for result in results] == [[False] * 3] * 2 + [[True] * 3]
    assert_as_alone(results)
    for label in FACTORS:
        config = cohort_of(tmp_path, {label: FACTORS[label]})
        assert EWCTrainable(config=config).state.tasks_learned == 3  # whatever it was trained with


def test_the_seconds_of_a_cohort_are_shared_among_its_configurations(tmp_path):
    trainable = EWCTrainable(config=cohort_of(tmp_path))
    result = trainable.train()
    seconds = [report.seconds for report in result[REPORTS]]
    assert len({*seconds}) == 1
    assert 0 < sum(seconds) <= result["time_this_iter_s"]


def test_a_configuration_whose_checkpoint_is_gone_drops_out_at_the_next_task(tmp_path):
    trainable = EWCTrainable(config=cohort_of(tmp_path))
    first = trainable.train()
    (tmp_path / "b" / STATE_FILE).unlink()
    rest = played(trainable)
    assert [moved(result) for result in rest] == [{"a": 2, "c": 2}, {"a": 3, "c": 3}]
    assert_as_alone([first | {REPORTS: [first[REPORTS][0], first[REPORTS][2]]}, *rest], {"a": 1.0, "c": 20.0})


def test_one_that_diverges_ends_and_the_others_go_on(tmp_path):
    results = played(EWCTrainable(config=cohort_of(tmp_path, FACTORS | {"b": 1e37})))
    assert [moved(result) for result in results] == [
        {"a": 1, "b": 1, "c": 1},
        {"a": 2, "b": 1, "c": 2},
        {"a": 3, "c": 3},
    ]
    lost = results[1][REPORTS][1]
    assert lost.done
    assert "of task 2" in lost.failed
    assert [result["done"] for result in results] == [False, False, True]


def test_a_cohort_of_which_all_diverge_is_done(tmp_path):
    (result,) = played(EWCTrainable(config=cohort_of(tmp_path, learning_rate=1e30)))
    assert all("of task 1" in report.failed and report.done for report in result[REPORTS])


def test_configurations_that_came_differently_far_first_tell_it_and_those_behind_catch_up(tmp_path):
    for label, tasks in (("a", 1), ("b", 2)):
        begun = EWCTrainable(config=cohort_of(tmp_path, {label: FACTORS[label]}))
        for _ in range(tasks):
            begun.train()
    results = played(EWCTrainable(config=cohort_of(tmp_path)))
    assert [moved(result) for result in results] == [
        {"a": 1, "b": 2},  # of which nobody may have heard
        {"c": 1},
        {"a": 2, "c": 2},
        {"a": 3, "b": 3, "c": 3},
    ]
    assert_as_alone(results)


@pytest.mark.slow
def test_a_reused_worker_takes_a_cohort_and_a_trial_alone(tmp_path):
    trainable = EWCTrainable(config=cohort_of(tmp_path))
    played(trainable)
    alone = SETTINGS | {"seeds": SEEDS, "penalty_factor": 5.0}
    assert trainable.reset_config(alone)
    result = played(trainable)[-1]
    assert REPORTS not in result
    assert torch.equal(
        torch.tensor(result["record"]["accuracy"], dtype=torch.float64).nan_to_num(-1), matrix_of(5.0).nan_to_num(-1)
    )
    assert trainable.reset_config(cohort_of(tmp_path / "other"))
    assert_as_alone(played(trainable))


def test_rays_own_checkpoint_holds_all_of_them(tmp_path):
    trainable = EWCTrainable(config=cohort_of(tmp_path / "one"))
    trainable.train()
    (tmp_path / "kept").mkdir()
    trainable.save_checkpoint(str(tmp_path / "kept"))
    other = EWCTrainable(config=cohort_of(tmp_path / "two"))
    other.train()
    other.load_checkpoint(str(tmp_path / "kept"))
    for member, was in zip(other.cohort, trainable.cohort, strict=True):
        assert all(torch.equal(member.state.params[name], value) for name, value in was.state.params.items())


class GreedyMLP(MLP):
    """Wants more memory than there is."""

    def features(self, params, inputs):
        return torch.empty(2**50)


@pytest.mark.parametrize("built", [True, False])
def test_memory_that_does_not_suffice_fails_those_that_go_on_with_the_remedy(tmp_path, built):
    factors = FACTORS | {"b": 1e37}
    if not built:
        trainable = EWCTrainable(config=cohort_of(tmp_path, factors, hidden=(10**8, 10**8)))
    else:
        trainable = EWCTrainable(config=cohort_of(tmp_path, factors))
        trainable.train()
        trainable.train()  # of which b diverges
        network = trainable.run.network
        trainable._run_of = lambda configs: replace(
            trainable.run, network=GreedyMLP(network.inputs, network.hidden, network.outputs)
        )
    result = trainable.train()
    assert result["done"]
    assert moved(result) == ({"a": 2, "c": 2} if built else {"a": 0, "b": 0, "c": 0})
    for report in result[REPORTS]:
        assert report.done
        assert report.out_of_memory
        assert "a smaller --cohort (now 3), a smaller --batch-size or fewer --seeds" in report.failed


def test_a_request_survives_the_way_to_a_worker_and_is_as_short_as_a_name(tmp_path):
    request = cohort_of(tmp_path)[REQUEST]
    sent = cloudpickle.loads(cloudpickle.dumps(request))
    assert sent == request
    assert [trial.config.source for trial in sent.trials] == [trial.config.source for trial in request.trials]
    assert (repr(request), request.labels, request.only(["b"]).label) == ("a+2", ["a", "b", "c"], "b")
    assert copy.deepcopy(request) is request


def test_a_report_keeps_its_metrics_without_the_matrices_that_they_come_from(tmp_path):
    result = EWCTrainable(config=cohort_of(tmp_path)).train()
    full = reports_in(cloudpickle.loads(cloudpickle.dumps(result)))["b"]
    R = torch.tensor(full.accuracy)
    assert full.metrics["average_accuracy"] == R[:, 1, 0].mean().item()
    light = full.ended().without_measurements()
    assert light.done
    assert light.metrics == full.metrics
    assert (light.accuracy.size, light.curve.size, light.columns) == (0, 0, ())
    replace_reports(result, [light])
    assert [report.done for report in result[REPORTS]] == [False, True, False]


def test_a_report_of_what_could_not_be_built_has_no_metrics():
    assert TrialReport("a").metrics == {}
    assert TrialReport("a").measurements()["accuracy"] == []


def test_a_cohort_whose_states_are_damaged_or_of_others_loses_tasks_and_no_number(tmp_path: Path) -> None:
    config = cohort_of(tmp_path)
    first = EWCTrainable(config=config)
    for _ in range(2):
        first.train()
    (tmp_path / "a" / STATE_FILE).write_bytes(b"")
    for name in (STATE_FILE, "state.previous.pt"):
        (tmp_path / "b" / name).write_bytes((tmp_path / "c" / name).read_bytes())
    second = EWCTrainable(config=config)
    assert [trial.state.tasks_learned for trial in second.cohort] == [1, 0, 2]
    results = played(second)
    notes = {label: report.note for result in results for label, report in reports_in(result).items() if report.note}
    assert {*notes} == {"a", "b"}
    assert notes["a"].endswith("continues after task 1")
    assert "a state of another configuration or other seeds" in notes["b"]
    assert_as_alone(results)
