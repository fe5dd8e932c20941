"""Studies whose configurations train together, with the real tools."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clsearch import LogRange, Study
from clsearch.records.trials import read_trials
from clsearch.reporting.result import StudyResult
from tests.integration.test_faults import workers_of
from tests.integration.test_resume import matrix_in_peace, mlflow_runs, optuna_trials

STATES = {"finished": "COMPLETE", "pruned": "PRUNED", "failed": "PRUNED"}


@pytest.fixture(scope="module")
def found(ray_session: str, results: Path) -> StudyResult:
    """Nine points from no penalty to one that diverges, four at a time, the worse of them stopped early."""
    return Study(
        algorithm="ewc",
        space={"penalty_factor": LogRange(1e-3, 1e29)},
        name="together",
        results=results,
        benchmark="permuted-digits",
        tasks=4,
        hidden=(32,),
        epochs=2,
        seeds=2,
        sampler="grid",
        grid_points=9,
        cohort=4,
        pruner="asha",
        final=False,
    ).run()


def test_each_of_a_cohort_ends_in_its_own_way(found: StudyResult) -> None:
    states = {r.label: r.state for r in found.records}
    assert len(states) == 9
    assert {*states.values()} == {"finished", "pruned", "failed"}
    for record in found.records:
        assert record.tasks_learned == {"finished": 4, "pruned": 2, "failed": 1}[record.state]
        assert ("diverged" in record.reason) == (record.state == "failed")
    assert [r.cohort for r in found.records] == [4] * 8 + [1]
    assert [(r.label, r.cohort, r.state) for r in found.references] == [("reference_finetuning", 1, "finished")]


def test_optuna_the_tables_and_mlflow_have_each_as_a_trial(found: StudyResult, results: Path) -> None:
    folder = found.plan.folder
    for trial, record in zip(optuna_trials(folder), found.records, strict=True):
        assert trial.params == record.values
        assert trial.state.name == STATES[record.state]
        assert [*trial.intermediate_values] == list(range(1, record.tasks_learned + 1))
    assert list(pd.read_csv(folder / "trials.csv").state) == [r.state for r in found.records]
    runs = mlflow_runs(results, "together")
    assert {label for label, _ in runs} >= {r.label for r in found.records}
    assert set(runs.values()) == {1}
    assert not list(folder.rglob("state.pt"))
    assert found.exit_code == 0


def test_what_each_learned_is_what_it_would_have_learned_alone(found: StudyResult) -> None:
    for record in found.records:
        learned = record.tasks_learned + 1
        matrix = np.array(record.accuracy, dtype=float)[:, :learned]
        if record.state != "failed":
            np.testing.assert_allclose(matrix, matrix_in_peace(record)[:, :learned], atol=0.02)


@contextlib.contextmanager
def interrupted_once(when: Callable[[], bool]) -> Iterator[None]:
    """Press Ctrl-C as soon as something holds."""
    ended = threading.Event()

    def press() -> None:
        while not ended.wait(0.02):
            if when():
                os.kill(os.getpid(), signal.SIGINT)
                return

    presser = threading.Thread(target=press)
    presser.start()
    yield
    ended.set()
    presser.join()


def test_a_study_of_cohorts_that_goes_on_regroups_what_was_unfinished(ray_session: str, results: Path) -> None:
    settings = {"algorithm": "ewc", "name": "regrouped", "results": results, "trials": 5, "final": False}
    settings |= {"hidden": (32,), "epochs": 8, "seeds": 2, "space": {"penalty_factor": LogRange(0.1, 10)}}
    folder = results / "regrouped"
    with interrupted_once(lambda: len(list(folder.glob("trials/trial_*/state.pt"))) == 3):
        begun = Study(**settings, cohort=3, references=()).run()
    assert begun.interrupted
    assert [r.state for r in begun.records if r.tasks_learned] == ["unfinished"] * 3
    found = Study(**settings, cohort=2, references=()).run()  # in other cohorts
    assert [trial.state.name for trial in optuna_trials(folder)] == ["COMPLETE"] * 5
    assert [r.state for r in found.records] == ["finished"] * 5
    assert sum(len(r.times) for r in begun.records) > 0
    for first, record in zip(begun.records, found.records, strict=False):
        assert record.times[: len(first.times)] == first.times  # resumed, not started over
        assert record.values == first.values
    for record in found.records:
        np.testing.assert_allclose(np.array(record.accuracy, dtype=float), matrix_in_peace(record), atol=0.02)
    assert set(mlflow_runs(results, "regrouped").values()) == {1}
    assert not list(folder.rglob("state.pt"))


def test_a_cohort_whose_worker_dies_goes_on_without_those_that_had_ended(ray_session: str, results: Path) -> None:
    """A new worker finds no state of them, as of those that have not begun."""
    folder, ended, reborn = results / "mourned", threading.Event(), []

    def kill() -> None:
        while not ended.wait(0.02):
            failed = [label for label, record in read_trials(folder).items() if record.state == "failed"]
            if failed and (found := workers_of("ray::EWCTrainable")):
                found[0].kill()
                break
        while not ended.wait(0.02):
            reborn.extend(label for label in failed if (folder / "trials" / label / "state.pt").exists())

    killer = threading.Thread(target=kill)
    killer.start()
    space = {"penalty_factor": LogRange(1e-3, 1e29)}
    settings = {"algorithm": "ewc", "space": space, "sampler": "grid", "grid_points": 5, "cohort": 5, "final": False}
    more = {"hidden": (32,), "epochs": 20, "seeds": 2, "references": (), "scenario": "domain"}
    found = Study(name="mourned", results=results, benchmark="permuted-digits", tasks=4, **settings, **more).run()
    ended.set()
    killer.join()
    states = [r.state for r in found.records]
    assert {*states} == {"finished", "failed"}
    for record in found.records:
        assert record.restarts == (0 if record.state == "failed" else 1)
        if record.state == "finished":
            np.testing.assert_allclose(np.array(record.accuracy, dtype=float), matrix_in_peace(record), atol=0.02)
    assert not reborn
