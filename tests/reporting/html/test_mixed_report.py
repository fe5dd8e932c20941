"""The report of a study with choices, whole numbers and hyperparameters that not every trial has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import pytest

from clsearch import Choice, LogRange
from clsearch.cli.main import main
from clsearch.records.study_record import StudyRecord, read_study
from clsearch.reporting.answer_text import write_answer
from clsearch.reporting.html.report import make_figures, make_sections, read_importances
from clsearch.reporting.html.style import describe_trial
from tests.builders import plan_of, record_of
from tests.study_folders import mixed_study, references_of, written

pytestmark = pytest.mark.slow


@pytest.fixture
def study(tmp_path: Path) -> StudyRecord:
    plan, records = mixed_study(tmp_path)
    return read_study(written(plan, [*records, *references_of(plan, {"epochs": 2, "hidden": "8,8"})]))


def panels_of(study: StudyRecord) -> dict[str, dict[str, go.Scatter]]:
    """Hyperparameter -> the traces of its panel in the response, by name."""
    figure, found = make_figures(study)["response"], {}
    for number, name in enumerate(study.space, start=1):
        axis = "x" if number == 1 else f"x{number}"
        found[name] = {trace.name: trace for trace in figure.data if trace.xaxis == axis}
    return found


def lines_of(study: StudyRecord, section: str) -> str:
    (found,) = [part for part in make_sections(study) if part.id == section]
    return " ".join(found.lines)


def test_every_hyperparameter_has_a_panel_with_the_trials_that_have_it(study) -> None:
    done = study.in_state("finished")
    for name, traces in panels_of(study).items():
        own = [record for record in done if name in record.values]
        points = traces["finished, ± std over seeds"]
        assert list(points.y) == pytest.approx([100 * record.metrics["average_accuracy"] for record in own])
        assert list(points.text) == [describe_trial(record, "average_accuracy") for record in own]
        assert ("chosen" in traces) == (name in study.chosen.values)
    assert "A trial is left out of the panel of a hyperparameter that does not apply to it." in lines_of(
        study, "response"
    )


def test_axes_have_the_choices_by_their_names_and_the_condition_below(study) -> None:
    layout, names = make_figures(study)["response"].layout, list(study.space)
    axes = {name: layout["xaxis" + ("" if n == 0 else str(n + 1))] for n, name in enumerate(names)}
    texts = {name: list(axes[name].ticktext) for name in ("optimizer", "hidden", "train_head", "teachers", "epochs")}
    assert texts == {
        "optimizer": ["sgd", "adam"],
        "hidden": ["8", "8,8"],
        "train_head": ["true", "false"],
        "teachers": ["none", "last"],
        "epochs": ["1", "2", "3", "4"],
    }
    assert {axes[name].type for name in texts} == {"linear"}
    assert axes["learning_rate"].type == axes["batch_size"].type == "log"
    having = sum("schedule" in record.values for record in study.trials)
    assert f"{having} of 24 trials: optimizer = sgd" in axes["schedule"].title.text
    assert axes["epochs"].title.text == "epochs"


def test_all_panels_have_one_range_of_scores_and_ten_are_in_three_rows(study) -> None:
    figure = make_figures(study)["response"]
    axes = [figure.layout[key] for key in figure.layout.to_plotly_json() if key.startswith("yaxis")]
    assert len({tuple(axis.range) for axis in axes}) == 1
    assert {axis.matches for axis in axes} == {None}
    assert len({axis.domain[0] for axis in axes if axis.domain}) == 3


def test_a_trial_says_what_it_has_and_nothing_else(study) -> None:
    adam = next(record for record in study.trials if record.values["optimizer"] == "adam")
    text = describe_trial(adam, "average_accuracy")
    assert "optimizer = adam" in text
    assert f"epochs = {adam.values['epochs']}<br>" in text
    assert "schedule" not in text
    named = replace(adam, values={"backbone": "nets.<lambda>"})
    assert "backbone = nets.&lt;lambda&gt;" in describe_trial(named, "average_accuracy")


def test_a_line_of_all_trials_passes_below_an_axis_that_it_does_not_have(study) -> None:
    (trace,) = make_figures(study)["parallel"].data
    dimensions = dict(zip([*study.space, "score"], trace.dimensions, strict=True))
    assert list(dimensions["optimizer"].ticktext) == ["sgd", "adam"]
    assert list(dimensions["optimizer"].tickvals) == [0, 1]
    done = study.in_state("finished")
    for name in study.space:
        dimension = dimensions[name]
        absent = ["not used" in dimension.ticktext and value == dimension.tickvals[0] for value in dimension.values]
        assert absent == [name not in record.values for record in done]
        assert dimension.range[0] <= min(dimension.values) <= max(dimension.values) <= dimension.range[1]
    learned = [record.values["epochs"] for record in done]
    assert list(dimensions["epochs"].values) == learned
    assert "“not used”" in lines_of(study, "parallel")


def test_importances_name_the_condition_of_a_hyperparameter(study) -> None:
    found, names = read_importances(study), []
    for trace in make_figures(study)["importance"].data:
        names += trace.y
    assert len(names) == len(found.shared) + len(found.conditional)
    assert "learning rate, if optimizer = adam" in names
    assert not any("/" in name for name in names)
    caption = lines_of(study, "importance")
    assert "learning rate, if optimizer = adam: " in caption
    left = [part for part in study.space.parts if part.key not in {*found.shared, *found.conditional}]
    assert bool(left) == ("Left out, because too few trials have it" in caption)


def test_the_answer_has_the_chosen_values_by_their_kind(study) -> None:
    values, (answer, _) = study.chosen.values, write_answer(study)
    for text in (f"optimizer {values['optimizer']}", f"epochs {values['epochs']}", f"hidden {values['hidden']}"):
        assert text in answer


def test_a_number_and_a_choice_have_panels_and_no_surface(tmp_path) -> None:
    plan = plan_of(tmp_path, space={"learning_rate": LogRange(1e-3, 1), "optimizer": Choice("sgd", "adam")}, seeds=2)
    values = [{"learning_rate": 0.01 * (n + 1), "optimizer": ["sgd", "adam"][n % 2]} for n in range(6)]
    records = [record_of(plan, n, [0.5 + 0.05 * n] * 2, own) for n, own in enumerate(values)]
    study = read_study(written(plan, records))
    assert {trace.type for trace in make_figures(study)["response"].data} == {"scatter"}
    assert {*panels_of(study)} == {"learning_rate", "optimizer"}
    assert "interpolated" not in lines_of(study, "response")


def test_the_page_of_several_studies_has_the_choices(study, tmp_path) -> None:
    page = tmp_path / "both.html"
    assert main(["report", str(study.folder), str(study.folder), "--output", str(page)]) == 0
    assert f"optimizer {study.chosen.values['optimizer']}" in page.read_text(encoding="utf-8")
