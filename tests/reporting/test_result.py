"""Results of a study, opened from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from clsearch import ConfigError, Study
from clsearch.reporting.answer_text import write_answer
from tests.reporting.html.test_report import SECTIONS
from tests.study_folders import evaluated, references_of, small_plan, trials_of, written

pytestmark = pytest.mark.slow


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    plan = small_plan(tmp_path)
    trials, references = trials_of(plan), references_of(plan)
    return written(plan, [*trials, *references], evaluated(plan))


def test_a_study_that_has_just_begun_has_empty_tables(tmp_path: Path) -> None:
    study = Study.open(written(small_plan(tmp_path), [], state="running"))
    assert len(study.trials) == len(study.references) == 0
    assert "distillation_factor" in study.trials.columns
    assert study.best is None


def test_a_study_is_read_back_with_its_tables_its_best_and_its_answer(whole: Path) -> None:
    study = Study.open(str(whole))
    assert list(study.trials.average_accuracy) == pytest.approx([0.80, 0.85, 0.91, 0.88, 0.70, 0.60])
    assert list(study.references.algorithm) == ["finetuning", "joint"]
    assert study.best is not None
    assert study.best.number == 2
    assert study.final is not None
    assert study.final.reported is not None
    assert study.answer == " ".join(write_answer(study.record))
    assert study.folder == whole


@pytest.mark.parametrize(("trial", "label"), [(2, "trial_00002"), ("finetuning", "reference_finetuning")])
def test_a_matrix_is_the_records(whole: Path, trial: int | str, label: str) -> None:
    record = json.loads((whole / "trials" / label / "record.json").read_text())
    np.testing.assert_array_equal(Study.open(whole).matrix(trial), np.array(record["accuracy"], dtype=float))


def test_figures_are_the_reports(whole: Path) -> None:
    figures = Study.open(whole).figures
    assert {*figures} == {*SECTIONS} - {"again"}
    assert all(isinstance(figure, go.Figure) for figure in figures.values())


def test_what_is_not_there_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trial: must be one of .*: 0 to 5, finetuning, joint; got 17"):
        Study.open(whole).matrix(17)
    with pytest.raises(ConfigError, match="results: must be the folder of a study"):
        Study.open(tmp_path / "none")


def test_reprs_are_short(whole: Path) -> None:
    study = Study.open(whole)
    assert study.best is not None
    plan = small_plan(whole.parent)
    for value in (study, study.record, study.best, study.final, plan, plan.options, plan.config, plan.config.source):
        assert len(repr(value)) < 600
        assert repr(value).startswith(f"{type(value).__name__}(")


def test_a_wrong_benchmark_is_refused_without_its_values() -> None:
    with pytest.raises(ConfigError) as refused:
        Study(algorithm="lwf", epochs=1, benchmark=np.arange(10**6))  # type: ignore[arg-type]
    assert len(str(refused.value)) < 300
