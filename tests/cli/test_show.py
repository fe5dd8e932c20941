"""`clsearch show` and `clsearch best`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from clsearch.cli.main import main
from clsearch.config.plain_values import show_value
from clsearch.methods.registry import configure
from clsearch.planning.plan import Plan
from clsearch.records.trials import TrialRecord
from tests.builders import plan_of, planned, study_of
from tests.study_folders import (
    MIXED_SPACE,
    VALUES,
    evaluated,
    mixed_study,
    references_of,
    small_plan,
    trials_of,
    written,
)

BEST = {"distillation_factor": 0.1 * 3**2, "distillation_temperature": 0.5 + 1.7 * (2 * 7 % 5)}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    plan = small_plan(tmp_path)
    return written(plan, [*trials_of(plan), *references_of(plan)], evaluated(plan))


def printed(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert main([str(arg) for arg in args]) == 0
    return capsys.readouterr().out


def test_show_has_the_answer_the_best_trials_and_the_final_evaluation(whole: Path, capsys) -> None:
    text = printed(capsys, "show", whole)
    for line in ("Which?", "Best configuration (trial 2)", "chosen lwf", "Optimism: the search estimated 91.00 %"):
        assert line in text
    assert "Resume" not in text


def test_show_of_a_study_that_was_cut_off_says_how_to_go_on(tmp_path: Path, capsys) -> None:
    plan = small_plan(tmp_path)
    plan = replace(plan, command=["python", "studies/mine.py", "--trials", "6"])
    text = printed(capsys, "show", written(plan, trials_of(plan)[:2], state="running"))
    assert "2 of 6 trials have ended" in text
    assert "Resume   python studies/mine.py --trials 6" in text


def test_show_of_a_study_without_a_finished_trial(tmp_path: Path, capsys) -> None:
    assert "No trial has finished" in printed(capsys, "show", written(small_plan(tmp_path), [], state="running"))


def test_best_is_yaml_of_the_searched_values_to_the_last_digit(whole: Path, capsys) -> None:
    assert yaml.safe_load(printed(capsys, "best", whole)) == BEST


def test_best_lists_configurations_for_enqueue_that_a_study_takes(whole: Path, tmp_path: Path, capsys) -> None:
    assert yaml.safe_load(printed(capsys, "best", whole, "--yaml")) == [BEST]
    for words, count in (["--top", "3"], 3), (["--yaml", "--top", "99"], 6), (["--whole", "--top", "2"], 2):
        file = tmp_path / "best.yml"
        file.write_text(printed(capsys, "best", whole, *words))
        plan = small_plan(tmp_path, enqueue=str(file))
        assert [one.values for one in plan.enqueued] == [VALUES[n] for n in (2, 3, 1, 0, 4, 5)[:count]]
    (tmp_path / "one.yml").write_text(printed(capsys, "best", whole))  # a mapping: --config and --enqueue take it
    assert [one.values for one in small_plan(tmp_path, enqueue=str(tmp_path / "one.yml")).enqueued] == [BEST]


def test_a_list_of_the_best_needs_one_and_a_study_that_has_some(whole: Path, tmp_path: Path, capsys) -> None:
    assert main(["best", str(whole), "--top", "0"]) == 2
    assert "top: must be greater than or equal to 1; got 0" in capsys.readouterr().err
    assert main(["best", "--yaml", str(written(plan_of(tmp_path / "b"), [], state="running"))]) == 2
    assert "of which a trial has finished" in capsys.readouterr().err


def test_best_whole_is_a_configuration(whole: Path, capsys) -> None:
    settings = yaml.safe_load(printed(capsys, "best", whole, "--whole"))
    assert configure("lwf", settings).distillation_factor == BEST["distillation_factor"]


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, Plan, TrialRecord]:
    """A study of every kind of hyperparameter: its folder, its plan and its best trial."""
    plan, records = mixed_study(tmp_path)
    return written(plan, [*records, *references_of(plan, {"epochs": 2})]), plan, records[2]


def test_show_has_values_by_their_kind_and_a_dash_for_what_does_not_apply(mixed, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    folder, plan, best = mixed
    text = printed(capsys, "show", folder)
    shown = [f"{name} = {show_value(value, 4)}" for name, value in best.values.items()]
    assert f"Best configuration (trial 2): {', '.join(shown)}" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith(" #2 ")]
    cells = [show_value(best.values[name], 4) if name in best.values else "–" for name in plan.space]
    assert row[1 : 1 + len(cells)] == cells
    assert "–" in cells


@pytest.mark.parametrize("whole", [[], ["--whole"]], ids=["searched", "whole"])
def test_best_is_a_configuration_with_choices(mixed, capsys, tmp_path, whole) -> None:
    folder, _, best = mixed
    file = tmp_path / "best.yml"
    file.write_text(printed(capsys, "best", folder, *whole))
    again = planned(study_of(space=MIXED_SPACE), "--config", str(file))
    assert again.space == {}
    assert again.config.flat() | {"data_root": ""} == best.settings | {"data_root": ""}
    assert {*yaml.safe_load(file.read_text())} >= {*best.values}


def test_a_choice_whose_record_is_lost_is_in_best_as_before(mixed, capsys) -> None:
    folder, _, best = mixed
    text = printed(capsys, "best", folder)
    shutil.rmtree(folder / "trials" / best.label)
    assert printed(capsys, "best", folder) == text


@pytest.mark.parametrize("command", ["show", "best"])
def test_what_is_no_study_is_refused(tmp_path: Path, capsys, command: str) -> None:
    assert main([command, str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: results: must be the folder of a study, results/<study>; got ")


def test_a_comparison_names_its_studies_where_one_is_asked_for(tmp_path: Path, capsys) -> None:
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "comparison.json").write_text('{"studies": {"a": "pair-a", "b": "pair-b"}}')
    assert main(["show", str(tmp_path / "pair")]) == 2
    said = capsys.readouterr().err
    assert f"got {tmp_path}/pair, a comparison of {tmp_path}/pair-a, {tmp_path}/pair-b: name one of them" in said


def test_a_bare_name_is_of_a_study_in_results(whole: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "results").mkdir()
    whole.rename(tmp_path / "results" / "mine")
    monkeypatch.chdir(tmp_path)
    assert "Best configuration (trial 2)" in printed(capsys, "show", "mine")


def test_best_of_nothing_is_refused(tmp_path: Path, capsys) -> None:
    assert main(["best", str(written(plan_of(tmp_path), [], state="running"))]) == 2
    assert "of which a trial has finished" in capsys.readouterr().err


def test_the_best_of_continual_is_a_list_of_each_tasks(tmp_path: Path, capsys) -> None:
    plan = plan_of(tmp_path, "ewc", space=None, protocol="continual")
    folder = written(plan, [])
    per_task = [{"penalty_factor": 4.0}, {"penalty_factor": 2.0}]
    (folder / "best.json").write_text(json.dumps({"label": "continual", "per_task": per_task}))
    assert yaml.safe_load(printed(capsys, "best", folder)) == {"per_task": per_task}


def test_a_question_is_shown_as_it_is_written(tmp_path: Path, capsys) -> None:
    plan = plan_of(tmp_path, seeds=2, question="Does [/x] or [m] matter?")
    assert "Does [/x] or [m] matter?" in printed(capsys, "show", written(plan, []))
