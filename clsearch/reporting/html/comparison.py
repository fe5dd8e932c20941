"""Compare several studies on one page: their choices, and their differences on the same fresh seeds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import plotly.graph_objects as go

from clsearch.common.formatting import format_metric, format_number, humanize
from clsearch.common.statistics import paired_difference
from clsearch.methods.registry import label_of
from clsearch.metrics import average_accuracy
from clsearch.records.evaluation import EvaluatedConfiguration, FinalEvaluation
from clsearch.records.study_record import StudyRecord
from clsearch.reporting.answer_text import ACCURACY, format_ends, join_settings, write_answer
from clsearch.reporting.html.page import Section, Table, figure_to_html
from clsearch.reporting.html.style import BLUE, GREEN, ORANGE, PURPLE, RED, add_band, apply_style

COLORS = (BLUE, ORANGE, GREEN, PURPLE, RED)
FORGETTING = "average_forgetting"

PAIRED = (
    "Differences on the same tasks, paired over the fresh seeds of both studies. If the interval contains 0, neither "
    "study is shown to be better."
)
NOT_PAIRED = (
    "No two studies have a final evaluation on the same tasks, unlearning requests and fresh seeds, so no pair can be "
    "compared seed by seed."
)
OVER_TASKS = (
    "Mean accuracy of each study's choice over the tasks learned{retained} so far; bands are one standard deviation "
    "over seeds. On test data and fresh seeds if the study has a final evaluation, else on the search's data and seeds."
)


def make_comparison_sections(studies: Sequence[StudyRecord]) -> list[Section]:
    """The sections of a page of several studies."""
    rows, curves = compute_differences(studies), plot_learning(studies)
    over_tasks = OVER_TASKS.format(retained=" and retained" if any(study.requests for study in studies) else "")
    scores, overview = figure_to_html(plot_scores(studies), "studies"), make_overview_table(studies)
    head = ("average accuracy on test data", "difference (points)", "95 % interval")
    tables = [Table(head, rows)] if rows else []
    return [
        Section("studies", "Results of the studies", (), scores, [overview]),
        Section("differences", "Paired differences", [PAIRED if rows else NOT_PAIRED], (), tables),
        Section("learning", "Accuracy over the tasks seen", [over_tasks], figure_to_html(curves, "learning")),
        *(Section(f"study-{n}", study.name, write_answer(study)) for n, study in enumerate(studies, start=1)),
    ]


def make_overview_table(studies: Sequence[StudyRecord]) -> Table:
    """A row per study: its setting, its choice, and the score of that on test data."""
    setting = ("study", "algorithm", "benchmark", "protocol", "chosen")
    scores = ("test accuracy", "95 % interval", "forgetting", "optimism on validation, on test data (points)")
    return Table((*setting, *scores), [[*_format_setting(study), *_format_scores(study)] for study in studies])


def _format_setting(study: StudyRecord) -> list[str]:
    """The setting and the choice of a study."""
    content, best = study.study, study.chosen
    chosen = "task by task" if study.decision.kept else "–"
    if best is not None and best.values:
        chosen = join_settings(best.values)
    benchmark = f"{content['config']['benchmark']} ({content['config']['scenario']})"
    return [study.name, label_of(content["algorithm"]), benchmark, humanize(content["protocol"]), chosen]


def _format_scores(study: StudyRecord) -> list[str]:
    """The scores of a study's choice on the test data of the full sequence."""
    evaluated = find_evaluation(study)
    if evaluated is None:
        return ["–"] * 4
    final, row = evaluated
    found = final.intervals(row, "test")
    forgetting = format_metric(FORGETTING, found[FORGETTING].mean) if FORGETTING in found else "–"
    optimism = "–"
    if final.optimism:
        first = final.optimism[0]
        gaps = (first.against_validation, first.against_test)
        optimism = ", ".join("–" if gap != gap else format_number(first.metric, gap, signed=True) for gap in gaps)
    accuracy = found[ACCURACY]
    return [format_metric(ACCURACY, accuracy.mean), format_ends(accuracy), forgetting, optimism]


def find_evaluation(study: StudyRecord) -> tuple[FinalEvaluation, EvaluatedConfiguration] | None:
    """A study's final evaluation and its choice's row on the full sequence; None if it has none."""
    row = None if study.final is None else study.final.row("chosen", "full_sequence")
    return None if study.final is None or row is None else (study.final, row)


def compute_differences(studies: Sequence[StudyRecord]) -> list[list[str]]:
    """Each later study minus each earlier one, if both were evaluated on the same tasks and seeds."""
    rows = []
    for first, second in combinations(studies, 2):
        one, other = find_evaluation(first), find_evaluation(second)
        if one is not None and other is not None and have_same_tasks(first, second) and one[0].seeds == other[0].seeds:
            minuend, subtrahend = (row.per_seed("test")[ACCURACY].tolist() for _, row in (other, one))
            found = paired_difference(minuend, subtrahend)
            rows.append([f"{second.name} minus {first.name}", f"{100 * found.mean:+.2f}", format_ends(found)])
    return rows


def have_same_tasks(first: StudyRecord, second: StudyRecord) -> bool:
    """Check that two studies have the same tasks on the same data and retain the same of them."""

    def describe_tasks(study: StudyRecord) -> list[Any]:
        names = ("benchmark", "scenario", "tasks", "classes_per_task", "class_order", "image_size", "image_channels")
        return [study.study["data"], study.requests, *(study.study["config"].get(name) for name in names)]

    return describe_tasks(first) == describe_tasks(second)


def plot_scores(studies: Sequence[StudyRecord]) -> go.Figure | None:
    """Test accuracy of each study's choice and references, with intervals; None without a final evaluation."""
    figure = go.Figure()
    for color, study in assign_colors(studies):
        if study.final is None:
            continue
        rows = [row for row in study.final.rows if row.on == "full_sequence" and not row.reason]
        found = [study.final.intervals(row, "test")[ACCURACY] for row in rows]
        upper, lower = [100 * (i.high - i.mean) for i in found], [100 * (i.mean - i.low) for i in found]
        chosen = [row.configuration == "chosen" for row in rows]
        figure.add_scatter(
            x=[100 * i.mean for i in found],
            y=[
                study.name if own else f"{row.algorithm} of {study.name}" for own, row in zip(chosen, rows, strict=True)
            ],
            error_x={"type": "data", "symmetric": False, "array": upper, "arrayminus": lower},
            mode="markers",
            marker={"size": 12, "color": color, "symbol": ["circle" if own else "x" for own in chosen]},
            hovertemplate="%{y}: %{x:.2f} %<extra></extra>",
        )
    if not figure.data:
        return None
    figure.update_xaxes(title="average accuracy on test data (%), 95 % interval over fresh seeds")
    figure.update_yaxes(autorange="reversed")
    return apply_style(figure, 140 + 40 * sum(len(trace.y) for trace in figure.data), showlegend=False)


def plot_learning(studies: Sequence[StudyRecord]) -> go.Figure | None:
    """Mean accuracy over the tasks seen, after each task; None without any matrix."""
    figure = go.Figure()
    for color, study in assign_colors(studies):
        matrix = study.matrices.get("chosen")
        if matrix is not None:
            tasks = list(range(1, matrix.shape[2] + 1))
            means = np.stack([average_accuracy(matrix, t) for t in tasks], axis=1)
            add_band(figure, tasks, 100 * means, study.name, color)
    if not figure.data:
        return None
    figure.update_xaxes(title="tasks learned", dtick=1)
    figure.update_yaxes(title="accuracy over the tasks seen (%)")
    return apply_style(figure, 420)


def assign_colors(studies: Sequence[StudyRecord]) -> list[tuple[str, StudyRecord]]:
    """Each study with its colour."""
    return [(COLORS[n % len(COLORS)], study) for n, study in enumerate(studies)]
