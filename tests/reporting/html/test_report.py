"""The report: every section, true words, honest where something is missing."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from clsearch import LogRange, Range
from clsearch.cli.main import main
from clsearch.common.checked_files import write_json
from clsearch.common.errors import ConfigError
from clsearch.common.statistics import paired_difference
from clsearch.records.early_stopping import describe_saving, summarize_early_stopping
from clsearch.records.ranking import cost_of
from clsearch.records.study_file import finite
from clsearch.records.study_record import StudyRecord, read_study
from clsearch.records.writer import StudyWriter
from clsearch.reporting.answer_text import write_answer, write_notes, write_question
from clsearch.reporting.captions import mean_forgetting
from clsearch.reporting.html.comparison import compute_differences, make_overview_table
from clsearch.reporting.html.report import make_sections, read_importances, write_comparison, write_report
from clsearch.reporting.html.response_plots import interpolate_scores
from clsearch.reporting.html.search_plots import plot_workers, trial_spans
from clsearch.reporting.html.task_plots import plot_forgetting
from clsearch.reporting.importances import Importances, compute_importances
from clsearch.reporting.provenance_text import describe_cost, make_provenance_rows
from tests.builders import plan_of, record_of
from tests.study_folders import VALUES, evaluated, references_of, small_plan, trials_of, written

pytestmark = pytest.mark.slow

SECTIONS = ["response", "importance", "tasks", "forgetting", "matrix", "trade-off"]
SECTIONS += ["optimism", "parallel", "cost", "again"]


@pytest.fixture
def whole(tmp_path) -> Path:
    plan = small_plan(tmp_path)
    records = [*trials_of(plan), *references_of(plan)]
    return written(plan, records, evaluated(plan))


def html_of(folder: Path) -> str:
    """A report without the library that draws its pictures."""
    text = write_report(folder).read_text(encoding="utf-8")
    return re.sub(r"<script>/\*\*.*?</script>", "", text, count=1, flags=re.DOTALL)


def drawn_in(folder: Path) -> set[str]:
    return {part.id for part in make_sections(read_study(folder)) if part.figures}


def test_a_finished_study_has_every_section_in_order_each_with_a_picture(whole) -> None:
    html = html_of(whole)
    assert re.findall(r'<section id="([a-z-]+)">', html) == SECTIONS
    assert drawn_in(whole) == {*SECTIONS} - {"again"}
    assert re.findall(r'<div id="figure-([a-z-]+)"', html) == SECTIONS[:-1]
    assert all(part.lines for part in make_sections(read_study(whole)))
    assert (whole / "report.html").stat().st_size < 6e6


def test_the_answer_is_the_choice_and_what_it_reaches_against_the_references(whole) -> None:
    study = read_study(whole)
    assert write_question(study) == "Which?"
    first, second = write_answer(study)
    assert first.startswith(
        "LwF with distillation factor 0.9 and distillation temperature 7.3 has the best average accuracy"
    )
    assert "of 6 finished trials on validation data, 91.00 % over 2 seeds; not shown worse: " in first
    half = 4.302653 * 0.01 / np.sqrt(3)  # Student's t for two degrees of freedom
    assert (
        f"reaches 90.00 % average accuracy (95 % interval {100 * (0.9 - half):.2f} to {100 * (0.9 + half):.2f})"
        in second
    )
    assert "+10.00 points (+10.00 to +10.00) against finetuning" in second
    assert "-5.00 points (-5.00 to -5.00) against joint training." in second
    assert write_notes(study) == [
        "split-digits, task-incremental, 3 tasks seen by the search; protocol end of sequence; seeds 0 1."
    ]


def test_without_a_final_evaluation_it_says_so_and_gives_the_searchs_numbers(tmp_path) -> None:
    plan = small_plan(tmp_path, final=False)
    folder = written(plan, [*trials_of(plan), *references_of(plan)])
    _, second = write_answer(read_study(folder))
    assert second.startswith("There is no final evaluation, only the optimistic numbers of the search itself: ")
    assert "+15.50 points against finetuning, -3.50 points against joint training." in second
    assert "optimism" not in drawn_in(folder)
    assert "Optimism is unknown" in html_of(folder)
    assert "validation data, the search&#39;s 2 seeds" in html_of(folder)


def test_one_trial_and_one_seed_give_an_honest_report(tmp_path) -> None:
    plan = plan_of(tmp_path, seeds=1, trials=1, references=(), final=False)
    folder = written(plan, [record_of(plan, 0, [0.8], VALUES[0])])
    first, _ = write_answer(read_study(folder))
    assert "best average accuracy of 1 finished trial on validation data, 80.00 % over 1 seed." in first
    assert drawn_in(folder) >= {"response", "tasks", "forgetting", "matrix", "trade-off"}
    assert {"importance", "parallel"} & drawn_in(folder) == set()


def test_a_study_of_which_every_trial_failed_says_why(tmp_path) -> None:
    plan = small_plan(tmp_path)
    records = [
        record_of(plan, n, [0.1, 0.1], values, state="failed", learned=0, reason="training <diverged>")
        for n, values in enumerate(VALUES)
    ]
    folder = written(plan, records, state="failed")
    (first,) = write_answer(read_study(folder))
    assert (
        first == "No trial has finished, so there is no answer. 6 trials failed, the first with: training <diverged>."
    )
    assert drawn_in(folder) == {"response"}  # where they failed is worth seeing
    assert "training &lt;diverged&gt;" in html_of(folder)


def test_a_study_that_is_not_done_says_how_far_it_is(tmp_path) -> None:
    plan = small_plan(tmp_path)
    cut = record_of(plan, 2, [0.8, 0.8], VALUES[2], state="unfinished", learned=1, reason="interrupted")
    folder = written(plan, [*trials_of(plan)[:2], cut], state="running")
    lines = write_notes(read_study(folder))
    assert lines[0].startswith("This study is running or was interrupted")
    assert lines[1] == "2 of 6 trials have ended; the results cover these."
    names = {trace["name"] for trace in figures_of(folder, "response")}
    assert names == {"finished", "chosen", "not finished"}


def figures_of(folder: Path, part: str) -> list[dict]:
    """The traces of a section's picture, as the page has them."""
    html = html_of(folder)
    (found,) = re.findall(rf'Plotly.newPlot\(\s*"figure-{part}",\s*(\[.*?\]),\s*\{{"', html, re.DOTALL)
    return json.loads(found)


def test_a_study_that_only_just_began_has_a_report(tmp_path) -> None:
    plan = small_plan(tmp_path)
    StudyWriter(plan).begin()
    assert write_answer(read_study(plan.folder)) == ["No trial has finished, so there is no answer."]
    assert drawn_in(plan.folder) == set()
    assert html_of(plan.folder).count("Too few trials have finished for this picture.") == 7


def test_stopped_and_failed_trials_are_told_apart_from_finished_ones(tmp_path) -> None:
    plan = small_plan(tmp_path)
    records = trials_of(plan)
    records[4] = record_of(plan, 4, [0.3, 0.3], VALUES[4], state="pruned", learned=2)
    records[5] = record_of(plan, 5, [0.1, 0.1], VALUES[5], state="failed", learned=1, reason="diverged")
    folder = written(plan, records)
    traces = {trace["name"]: trace for trace in figures_of(folder, "response") if "name" in trace}
    assert {name: len(trace["x"]) for name, trace in traces.items() if isinstance(trace["x"], list)} == {
        "finished": 4,
        "chosen": 1,
        "stopped early": 1,
        "failed": 1,
    }
    assert "diverged" in traces["failed"]["text"][0]
    assert "4 finished, 1 stopped early, 1 failed" in html_of(folder)


@pytest.mark.parametrize(
    ("algorithm", "space"),
    [
        ("finetuning", {"learning_rate": LogRange(0.01, 1)}),
        (
            "lwf_ewc",
            {
                "distillation_factor": LogRange(0.1, 10),
                "penalty_factor": LogRange(1, 100),
                "penalty_p_norm": Range(1, 3),
            },
        ),
    ],
)
def test_one_or_many_hyperparameters_have_a_panel_each(tmp_path, algorithm, space) -> None:
    plan = plan_of(tmp_path, algorithm, space=space, seeds=2, references=(), trials=5)
    points = [{name: r.points(5)[n] for name, r in space.items()} for n in range(5)]
    folder = written(plan, [record_of(plan, n, [0.5 + 0.1 * n] * 2, values) for n, values in enumerate(points)])
    traces = [trace for trace in figures_of(folder, "response") if trace["name"].startswith("finished")]
    assert len(traces) == len(space)
    assert [trace["x"] for trace in traces] == [[p[name] for p in points] for name in space]


def test_a_long_sequence_has_a_panel_per_task(tmp_path) -> None:
    plan = plan_of(tmp_path, benchmark="permuted-digits", tasks=12, seeds=2, references=(), trials=1, final=False)
    folder = written(plan, [record_of(plan, 0, [0.5, 0.6], VALUES[0])])
    assert len(figures_of(folder, "tasks")) == 2 * 12


def test_what_a_user_wrote_is_no_markup(tmp_path) -> None:
    plan = small_plan(tmp_path, question="Is <script>alert(1)</script> & co worth it?")
    assert "<script>alert" not in html_of(written(plan, trials_of(plan)))


def test_the_page_asks_nothing_of_the_network(whole) -> None:
    html = html_of(whole)
    assert re.findall(r"""(?:src|href)=["'](?!#)[^"']*""", html) == []
    assert "url(" not in html
    assert "@import" not in html


# What is computed


def test_between_trials_on_a_plane_the_surface_is_the_plane(tmp_path) -> None:
    plan = small_plan(tmp_path)
    records = []
    for n, (x, y) in enumerate([(-1, 1), (1, 1), (-1, 5), (1, 5), (0, 3)]):
        values = {"distillation_factor": 10.0**x, "distillation_temperature": 10 ** (y / 10)}
        records.append(record_of(plan, n, [0.5 + 0.1 * x + 0.02 * y] * 2, values))
    study = read_study(written(plan, records))
    along, up, found = interpolate_scores(study, [100 * r.metrics["average_accuracy"] for r in study.trials])
    expected = 100 * (0.5 + 0.1 * np.log10(along)[None] + 0.02 * 10 * np.log10(up)[:, None])
    np.testing.assert_allclose(found[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-6)


@pytest.mark.parametrize("points", [[(0, 1)] * 5, [(0, 1), (1, 2), (2, 3), (3, 4)], [(0, 1), (1, 1), (2, 1), (3, 1)]])
def test_trials_in_a_line_span_no_surface(tmp_path, points) -> None:
    plan = small_plan(tmp_path)
    values = [{"distillation_factor": 10.0**x, "distillation_temperature": 10.0**y} for x, y in points]
    study = read_study(written(plan, [record_of(plan, n, [0.5, 0.6], own) for n, own in enumerate(values)]))
    assert interpolate_scores(study, [50.0] * len(points)) is None
    assert make_sections(study)[0].figures


def test_forgetting_is_the_fields(tmp_path) -> None:
    plan = small_plan(tmp_path)
    record = record_of(plan, 0, [0.5, 0.8], VALUES[0])
    study = read_study(written(plan, [record]))
    (bars,) = plot_forgetting(study).data
    assert mean_forgetting(study, "chosen") == pytest.approx(100 * record.metrics["average_forgetting"])
    assert np.mean(bars.y) == pytest.approx(100 * record.metrics["average_forgetting"])


def test_importance_is_of_what_makes_the_difference(tmp_path) -> None:
    plan = plan_of(tmp_path, seeds=2, trials=30)
    rng = np.random.default_rng(0)
    records = []
    for n in range(30):
        values = {
            "distillation_factor": float(10 ** rng.uniform(-2, 2)),
            "distillation_temperature": float(rng.uniform(1, 8)),
        }
        records.append(record_of(plan, n, [0.5 + 0.1 * np.log10(values["distillation_factor"])] * 2, values))
    found = compute_importances(records, plan.space, plan.objectives[0])
    assert sum(found.shared.values()) == pytest.approx(1)
    assert found.shared["distillation_factor"] > 0.9
    assert found.conditional == {}


def test_a_bar_is_as_long_as_the_training_and_bars_of_a_worker_do_not_overlap(tmp_path) -> None:
    plan = small_plan(tmp_path)
    records = []
    for n, (begin, seconds) in enumerate([(0, 10), (0.5, 4), (5, 7), (11, 3)]):
        record = record_of(plan, n, [0.5, 0.6], VALUES[n])
        times = [int(1000 * (1e9 + begin + seconds * part / 3)) for part in (1, 2, 3)]
        records.append(replace(record, seconds=float(seconds), times=times, place="here"))
    study = read_study(written(plan, records))
    assert [round(end - begin) for begin, end, _ in trial_spans(study)] == [10, 4, 7, 3]
    (trace,) = plot_workers(study).data
    assert trace.y == ("1", "2", "2", "1")
    assert trace.base == pytest.approx((0, 0.5, 5, 11))
    assert trace.x == pytest.approx((10, 4, 7, 3))
    assert all("here" in text for text in trace.text)


# Several studies


def pair(tmp_path: Path, **second: object) -> list[StudyRecord]:
    folders = []
    for name, chosen, settings in (("one", 0.90, {}), ("two", 0.93, second)):
        plan = small_plan(tmp_path, name=name, **settings)
        folders.append(written(plan, trials_of(plan), evaluated(plan, chosen)))
    return [read_study(folder) for folder in folders]


def test_studies_on_the_same_seeds_are_compared_seed_by_seed(tmp_path) -> None:
    studies = pair(tmp_path)
    ((name, difference, interval),) = compute_differences(studies)
    found = paired_difference([0.92, 0.93, 0.94], [0.89, 0.90, 0.91])
    assert (name, difference) == ("two minus one", f"{100 * found.mean:+.2f}")
    assert interval == f"{100 * found.low:.2f} to {100 * found.high:.2f}"
    table = make_overview_table(studies)
    assert [row[table.head.index("test accuracy")] for row in table.rows] == ["90.00 %", "93.00 %"]


@pytest.mark.parametrize("other", [{"first_report_seed": 50}, {"benchmark": "permuted-digits"}, {"scenario": "class"}])
def test_studies_on_other_seeds_or_tasks_are_not(tmp_path, other) -> None:
    studies = pair(tmp_path, **other)
    assert compute_differences(studies) == []
    path = write_comparison([study.folder for study in studies], tmp_path / "page.html")
    assert "no pair can be compared seed by seed" in path.read_text(encoding="utf-8")


def test_the_command_writes_reports_and_the_page_of_several(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [str(study.folder) for study in pair(tmp_path)]
    assert main(["report", folders[0]]) == 0
    assert capsys.readouterr().out == "one/report.html\n"
    assert main(["report", *folders]) == 0
    assert capsys.readouterr().out == "one/report.html\ntwo/report.html\ncomparison.html\n"
    assert 'id="differences"' in (tmp_path / "comparison.html").read_text(encoding="utf-8")


def test_what_is_no_study_is_refused(tmp_path, capsys) -> None:
    with pytest.raises(ConfigError, match="must be the folder of a study"):
        read_study(tmp_path)
    assert main(["report", str(tmp_path)]) == 2
    assert main(["report"]) == 2
    assert "error: folders: must name at least one study" in capsys.readouterr().err


def test_a_final_evaluation_that_was_cut_off_has_opened_test_data_all_the_same(tmp_path) -> None:
    plan = small_plan(tmp_path)
    folder = written(plan, trials_of(plan))
    said = dict(make_provenance_rows(read_study(folder)))
    assert said["test data opened"] == "never by this study"
    opening = asdict(evaluated(plan).openings[0])
    (folder / "final.json").write_text(json.dumps({"openings": [opening], "rows": []}))
    said = dict(make_provenance_rows(read_study(folder)))
    assert said["test data opened"] == (
        "2026-01-02T03:04:05+00:00, had not been opened before in this results folder; the evaluation did not end"
    )
    assert "only the optimistic numbers of the search" in write_answer(read_study(folder))[1]


def test_the_report_says_of_stopping_early_what_the_study_said(tmp_path) -> None:
    plan = small_plan(tmp_path, pruner="asha")
    stopped = [record_of(plan, 6 + n, [0.3, 0.2], state="pruned", learned=2) for n in range(3)]
    records = [*trials_of(plan), *stopped]
    pruned = summarize_early_stopping(plan, records)
    folder = written(plan, records)
    best = json.loads((folder / "best.json").read_text())
    for rungs in (pruned.rungs, (replace(pruned.rungs[0], correlation=float("nan")),)):
        content = finite(best | {"pruning": asdict(replace(pruned, rungs=rungs))})
        write_json(folder / "best.json", content)
        said = describe_cost(read_study(folder))
        assert said == [str(cost_of(records)), *describe_saving(replace(pruned, rungs=rungs), "asha", 9)]


def test_the_importances_of_a_search_that_has_not_ended_are_optunas_of_now(tmp_path) -> None:
    plan = small_plan(tmp_path)
    records = trials_of(plan)
    folder = written(plan, records, state="running")
    whole = read_importances(read_study(folder))
    assert set(whole.shared) == set(plan.space)
    best = json.loads((folder / "best.json").read_text())
    assert whole == Importances(best["importance"])
    write_json(folder / "best.json", best | {"importance": {"distillation_factor": 1.0}})
    assert read_importances(read_study(folder)) == Importances({"distillation_factor": 1.0})
    for stale in ({}, best | {"importance": {}, "trials": {"finished": 5}}):
        write_json(folder / "best.json", stale)
        assert read_importances(read_study(folder)) == whole


def test_the_report_of_500_trials_is_below_6_megabytes(tmp_path) -> None:
    plan = plan_of(tmp_path, seeds=3, trials=500, tasks=5, report_seeds=3, pruner="asha")
    rng, records = np.random.default_rng(0), []
    for n in range(500):
        values = {
            "distillation_factor": float(10 ** rng.uniform(-2, 2)),
            "distillation_temperature": float(rng.uniform(1, 8)),
        }
        state = "pruned" if n % 4 == 3 else "finished"
        record = record_of(plan, n, rng.uniform(0.5, 0.9, 3), values, state=state, learned=2 if n % 4 == 3 else None)
        records.append(replace(record, times=[1_700_000_000_000 + 7500 * n] * record.tasks_learned))
    path = write_report(written(plan, records))
    assert path.stat().st_size < 6e6


def test_a_final_evaluation_of_an_earlier_choice_is_not_the_present_ones(tmp_path) -> None:
    """As of a study that was extended: its folder keeps the old one until there is another."""
    plan = small_plan(tmp_path)
    better = record_of(plan, 6, [0.97, 0.98], VALUES[0])
    study = read_study(written(plan, [*trials_of(plan), better], evaluated(plan), state="running"))
    assert study.chosen.number == 6
    assert study.final is None
    assert len(study.openings) == 1
    assert "only the optimistic numbers of the search" in write_answer(study)[1]


def test_scores_that_differ_in_their_last_digits_only_have_no_importance(tmp_path) -> None:
    plan = small_plan(tmp_path)
    records = [record_of(plan, n, [0.9 + 1e-15 * n] * 2, VALUES[n]) for n in range(6)]
    assert compute_importances(records, plan.space, plan.objectives[0]) == Importances()
