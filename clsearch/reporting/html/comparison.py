"""Several studies on one page: what each chose, and how they differ on the same fresh seeds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from clsearch.common.formatting import algorithm_label, to_display_units
from clsearch.common.statistics import Interval, paired_difference
from clsearch.metrics import average_accuracy
from clsearch.records.evaluation import Final, Measured
from clsearch.records.study_record import Reading
from clsearch.reporting.answer_text import ACCURACY, answer, settings, value
from clsearch.reporting.html.page import Part, Table, drawn
from clsearch.reporting.html.style import BLUE, GREEN, ORANGE, PURPLE, RED, add_band, shaped

COLORS = (BLUE, ORANGE, GREEN, PURPLE, RED)
FORGETTING = "average_forgetting"

PAIRED = (
    "Paired over the fresh seeds that both studies were measured on, on the same tasks; an interval that contains 0 "
    "does not tell them apart."
)
NOT_PAIRED = (
    "No two studies were finally evaluated on the same tasks, requests to unlearn and fresh seeds, so no pair can be "
    "compared seed by seed."
)
OVER_TASKS = (
    "Mean accuracy over the tasks learned{retained} so far, of each study's choice; bands are one standard "
    "deviation over seeds. On test data and fresh seeds where a study has them, else as its search measured."
)


def comparison_parts(studies: Sequence[Reading]) -> list[Part]:
    """The sections of a page of several studies."""
    rows, along = differences(studies), learning(studies)
    over_tasks = OVER_TASKS.format(retained=" and retained" * any(study.requests for study in studies))
    head = ("average accuracy on test data", "difference (points)", "95 % interval")
    tables = [Table(head, rows)] if rows else []
    return [
        Part("studies", "What each study found", (), drawn(standing(studies), "studies"), [overview(studies)]),
        Part("differences", "Paired differences", [PAIRED if rows else NOT_PAIRED], (), tables),
        Part("learning", "Accuracy over the tasks seen", [over_tasks], drawn(along, "learning")),
        *(Part(f"study-{n}", study.name, answer(study)) for n, study in enumerate(studies, start=1)),
    ]


def overview(studies: Sequence[Reading]) -> Table:
    """A row per study: what it is of, what it chose, what that reaches on test data."""
    what = ("study", "algorithm", "benchmark", "protocol", "chosen")
    reaches = ("test accuracy", "95 % interval", "forgetting", "optimism on validation, on test data (points)")
    return Table((*what, *reaches), [[*what_of(study), *reached_by(study)] for study in studies])


def what_of(study: Reading) -> list[str]:
    """A study, and its choice."""
    of, best = study.study, study.chosen
    chosen = "task by task" if study.decision.kept else "–"
    if best is not None and best.values:
        chosen = settings(best.values)
    benchmark = f"{of['config']['benchmark']} ({of['config']['scenario']})"
    return [study.name, algorithm_label(of["algorithm"]), benchmark, of["protocol"].replace("_", " "), chosen]


def reached_by(study: Reading) -> list[str]:
    """What a study's choice reaches on the test data of the full sequence."""
    evaluated = evaluation(study)
    if evaluated is None:
        return ["–"] * 4
    final, row = evaluated
    found = final.intervals(row, "test")
    forgotten = value(found[FORGETTING].mean) if FORGETTING in found else "–"
    optimism = "–"
    if final.optimism:
        believed = final.optimism[0]
        against = (believed.against_validation, believed.against_test)
        optimism = ", ".join("–" if x != x else f"{to_display_units(believed.metric, x):+.2f}" for x in against)
    return [value(found[ACCURACY].mean), span(found[ACCURACY]), forgotten, optimism]


def span(found: Interval) -> str:
    """The ends of an interval in percent."""
    return f"{100 * found.low:.2f} to {100 * found.high:.2f}" if found.low == found.low else "one seed"


def evaluation(study: Reading) -> tuple[Final, Measured] | None:
    """A study's final evaluation, and its choice's row on the full sequence."""
    row = None if study.final is None else study.final.row("chosen", "full_sequence")
    return None if study.final is None or row is None else (study.final, row)


def differences(studies: Sequence[Reading]) -> list[list[str]]:
    """Each later study minus each earlier one, where both were measured on the same tasks and seeds."""
    rows = []
    for first, second in combinations(studies, 2):
        one, other = evaluation(first), evaluation(second)
        if one is not None and other is not None and same_ground(first, second) and one[0].seeds == other[0].seeds:
            minuend, subtrahend = (row.per_seed("test")[ACCURACY].tolist() for _, row in (other, one))
            found = paired_difference(minuend, subtrahend)
            rows.append([f"{second.name} minus {first.name}", f"{100 * found.mean:+.2f}", span(found)])
    return rows


def same_ground(first: Reading, second: Reading) -> bool:
    """Whether two studies have the same tasks of the same data, and retain the same of them."""

    def ground(study: Reading) -> list[Any]:
        names = ("benchmark", "scenario", "tasks", "classes_per_task", "class_order", "image_size", "image_channels")
        return [study.study["data"], study.requests, *(study.study["config"].get(name) for name in names)]

    return ground(first) == ground(second)


def standing(studies: Sequence[Reading]) -> go.Figure | None:
    """Test accuracy of each study's choice and of its references, with intervals."""
    figure = go.Figure()
    for color, study in colored(studies):
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
    return shaped(figure, 140 + 40 * sum(len(trace.y) for trace in figure.data), showlegend=False)


def learning(studies: Sequence[Reading]) -> go.Figure | None:
    """Mean accuracy over the tasks seen, after each task."""
    figure = go.Figure()
    for color, study in colored(studies):
        matrix = study.matrices.get("chosen")
        if matrix is not None:
            tasks = list(range(1, matrix.shape[2] + 1))
            R = torch.from_numpy(matrix)
            means = np.stack([average_accuracy(R, t).numpy() for t in tasks], axis=1)
            add_band(figure, tasks, 100 * means, study.name, color)
    if not figure.data:
        return None
    figure.update_xaxes(title="tasks learned", dtick=1)
    figure.update_yaxes(title="accuracy over the tasks seen (%)")
    return shaped(figure, 420)


def colored(studies: Sequence[Reading]) -> list[tuple[str, Reading]]:
    """Each study with a colour."""
    return [(COLORS[n % len(COLORS)], study) for n, study in enumerate(studies)]
