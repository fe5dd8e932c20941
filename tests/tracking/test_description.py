"""What MLflow says of a study."""

from __future__ import annotations

from pathlib import Path

from clsearch.records.study_record import read_study
from clsearch.reporting.answer_text import write_answer
from clsearch.tracking.description import note_of, table
from tests.study_folders import evaluated, references_of, small_plan, trials_of, written


def test_the_note_has_the_question_the_answer_the_ranges_and_the_versions(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    study = read_study(written(plan, [*trials_of(plan), *references_of(plan)], evaluated(plan)))
    note = note_of(study)
    assert note.startswith("**Which?**\n\nLwF with distillation factor 0.9 ")
    for line in (*write_answer(study), "| `distillation_factor` | 0.01 to 100 (log) |", "| seeds | 0 1 |"):
        assert line in note
    assert f"| clsearch | {study.study['versions']['clsearch']} |" in note


def test_the_note_of_a_study_that_has_just_begun_says_so(tmp_path: Path) -> None:
    note = note_of(read_study(written(small_plan(tmp_path), [], state="running")))
    assert "No trial has finished, so there is no answer." in note
    assert "0 of 6 trials have ended" in note


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert table(["a"], [["b|c"]]).splitlines() == ["| a |", "| --- |", "| b&#124;c |"]
