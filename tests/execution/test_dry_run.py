"""What a study says that it would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clsearch import Choice, IntRange, LogRange
from clsearch.data.datasets import read_data
from clsearch.execution.dry_run import (
    Pace,
    at_a_time,
    measure,
    place_rows,
    probe,
    steps_of,
    training_rows,
    typical_trials,
)
from clsearch.planning.plan import Plan
from clsearch.training.trial_setup import build_trial
from tests.builders import plan_of, record_of, study_of
from tests.study_folders import written


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Ray other tests of this process have joined."""
    monkeypatch.setattr("clsearch.execution.dry_run.joins", lambda plan: False)


def said(plan: Plan, pace: Pace | None = None, steps: int = 100) -> dict[str, str]:
    return dict(training_rows(plan, pace or Pace(0.01, 0.5, len(plan.seeds)), steps))


def test_task_trainings_are_trials_seeds_and_tasks(tmp_path: Path) -> None:
    rows = said(plan_of(tmp_path, trials=6, seeds=2, report_seeds=4, references=("finetuning", "joint")))
    assert rows["Trials"] == "6 x 2 seeds x 3 tasks = 36 task-seed trainings"
    assert rows["References"] == "finetuning, joint on the same seeds"
    assert rows["Final"] == "the choice, finetuning, joint on 4 fresh seeds; opens test data at the end"


def test_the_time_is_that_of_trials_references_and_the_final_evaluation(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, trials=6, seeds=2, report_seeds=4, references=("finetuning", "joint"), max_concurrent=1)
    one = 0.01 * 100 + 0.5 * 3
    whole = (6 + 1 + 2) * one + (1 + 1 + 2) * 2 * one  # joint trains on tasks 1..t at each task
    assert said(plan)["Time"].startswith(f"about {one:.0f} s per trial, {whole:.0f} s in total")
    final = said(plan_of(tmp_path, trials=6, seeds=2, final=False, references=(), max_concurrent=1))
    assert "Final" not in final
    assert f"{6 * one:.0f} s in total" in final["Time"]


def test_configurations_that_train_together_share_a_worker(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, trials=6, seeds=2, cohort=4, final=False, references=(), max_concurrent=8)
    rows = said(plan, Pace(0.01, 0.5, 8))
    assert rows["Resources"].startswith("1 CPU for up to 4 trials that train together, ")
    one = (0.01 * 100 + 0.5 * 3) / 4
    assert at_a_time(plan) <= 2  # 4 and 2
    assert f"{6 * one / at_a_time(plan):.0f} s in total" in rows["Time"]
    found, _ = measure(plan, read_data(plan.config.source, None))
    assert found is not None
    assert found.seeds == 8


@pytest.mark.parametrize("settings", [{"pruner": "asha"}, {"protocol": "continual", "space": None}])
def test_what_may_end_sooner_is_told_as_the_most(tmp_path: Path, settings: dict) -> None:
    rows = said(plan_of(tmp_path, "ewc", **settings))
    assert rows["Trials"].startswith("at most ")
    assert rows["Time"].startswith("at most ")


def test_what_has_ended_is_not_trained_again(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, trials=6, seeds=2, final=False, references=(), max_concurrent=1)
    written(plan, [record_of(plan, n, [0.5, 0.6]) for n in range(4)], state="running")
    one = 0.01 * 100 + 0.5 * 3
    rows = said(plan)
    assert rows["Ended"] == "4 trials; the study resumes with the others"
    assert f"{2 * one:.0f} s in total" in rows["Time"]
    assert dict(place_rows(plan))["Record"].endswith("/mine/ (interrupted, 4 trials have ended)")
    fresh = replace(plan, options=plan.options.model_copy(update={"fresh": True}))
    assert "Ended" not in said(fresh)
    assert "moved aside" in dict(place_rows(fresh))["Record"]


def test_trials_at_a_time_are_what_the_machine_holds(tmp_path: Path) -> None:
    assert at_a_time(plan_of(tmp_path, max_concurrent=1)) == 1
    assert at_a_time(plan_of(tmp_path, cpus_per_trial=10_000)) == 1
    assert at_a_time(plan_of(tmp_path, trials=1)) == 1


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, tracking_uri="http://bob:secret@mlflow.example:5000")
    assert dict(place_rows(plan))["MLflow"] == "http://mlflow.example:5000, experiment mine"


def test_steps_are_those_that_a_trial_takes(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, epochs=2, batch_size=32)
    data = read_data(plan.config.source, None)
    run = build_trial(plan.config, plan.seeds, "cpu", data)
    assert steps_of(plan, data, {}) == sum(2 * -(-max(task.train.sizes) // 32) for task in run.benchmark.tasks)
    assert steps_of(plan_of(tmp_path, iterations=7), data, {}) == 3 * 7


def test_the_cost_of_a_trial_is_the_mean_over_what_is_searched(tmp_path: Path) -> None:
    space = {"epochs": IntRange(1, 5), "hidden": Choice((8,), (512, 512)), "batch_size": Choice(16, 64)}
    plan = plan_of(tmp_path, space=space | {"learning_rate": LogRange(0.01, 1)}, cohort=8, trials=8, seeds=1)
    trials = typical_trials(plan)
    assert len(trials) == 4
    assert all((values["epochs"], values["learning_rate"]) == (3, 0.01) for values in trials)
    assert len({(values["hidden"], values["batch_size"]) for values in trials}) == 4
    data = read_data(plan.config.source, None)
    pace, steps = measure(plan, data)
    sizes = [steps_of(plan, data, values) for values in trials]
    assert steps == round(sum(sizes) / 4)
    assert (pace.structures, pace.seeds) == (4, 2)  # two of eight have the same structure
    assert "the mean of 4 configurations" in said(plan, pace)["Time"]
    small, large = (probe(plan, data, {**trials[0], "hidden": hidden}, 1) for hidden in ("8", "512,512"))
    assert small.step < large.step


def test_the_probe_measures_steps_and_what_comes_with_a_task(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "ewc", seeds=2)
    pace, _ = measure(plan, read_data(plan.config.source, None))
    assert pace.of(0, 1, 2) + pace.of(1000, 0, 2) > 0
    assert pace.seeds == 2


def test_where_a_probe_diverges_the_time_is_unknown(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, learning_rate=1e20)
    pace, _ = measure(plan, read_data(plan.config.source, None))
    assert pace is None
    assert dict(training_rows(plan, pace, 100))["Time"].startswith("unknown: ")


def test_what_a_protocol_reports_on_costs_its_tasks(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, protocol="first_k", first_k=2, tasks=5, seeds=2, report_seeds=2, references=())
    one = 0.01 * 100 + 0.5 * 2  # two tasks; reported on three, and on the full sequence of five
    plan = replace(plan, options=plan.options.model_copy(update={"max_concurrent": 1}))
    assert f"{32 * one + one * (3 + 5) / 2:.0f} s in total" in said(plan)["Time"]


@pytest.mark.slow
def test_a_dry_run_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        study_of(results=tmp_path / "results").main(["--dry-run", "--trials", "4"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for name in ("Study", "Search", "Trials", "Final", "Resources", "Time", "Record", "MLflow"):
        assert f"\n{name} " in f"\n{printed}"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_on_a_cluster_whose_room_is_not_known_the_time_is_one_workers(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clsearch.execution.dry_run.joins", lambda plan: True)
        rows = said(plan_of(tmp_path, trials=6, seeds=2, final=False, references=()))
    assert "15 s in total on one worker" in rows["Time"]
    assert rows["Resources"] == "1 CPU per trial, as many at a time as the cluster holds"
