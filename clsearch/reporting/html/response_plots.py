"""Figures of the objective over the searched hyperparameters, with all trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clsearch.common.formatting import label_with_unit, to_display_units
from clsearch.planning.objectives import sign
from clsearch.records.study_record import StudyRecord
from clsearch.records.trials import TrialRecord
from clsearch.reporting.axes import Axis, arrange_panels, find_axis, is_map
from clsearch.reporting.html.style import (
    BLUE,
    DASHES,
    GREY,
    LINES,
    RED,
    RING,
    SCORES,
    apply_style,
    describe_trial,
    display_scores,
    make_axis,
)

SCORELESS = (
    ("pruned", "circle-open", GREY, "stopped early"),
    ("failed", "x", RED, "failed"),
    ("unfinished", "diamond-open", GREY, "not finished"),
    ("running", "diamond-open", GREY, "running"),
)
"""State, symbol, colour and label of trials without a score."""

Place = Callable[[TrialRecord], "tuple[Any, Any] | None"]
"""Gives where a trial lies."""


def plot_response(study: StudyRecord) -> go.Figure | None:
    """The objective over the searched hyperparameters: a surface for two with numbers, else a panel for each.

    None if nothing was searched or no trial has begun.
    """
    if not study.space or not study.trials:
        return None
    return plot_surface(study) if is_map(study.space) else plot_slices(study)


def plot_surface(study: StudyRecord) -> go.Figure:
    """All trials over two hyperparameters, on a linear interpolation of the finished ones."""
    (x, y), finished, metric = study.space, study.in_state("finished"), study.objective
    figure = go.Figure()
    scores = display_scores(finished, metric)
    if (grid := interpolate_scores(study, scores)) is not None:
        _add_contours(figure, *grid)
    if finished:
        figure.add_scatter(
            x=[r.values[x] for r in finished],
            y=[r.values[y] for r in finished],
            mode="markers",
            name="finished",
            marker=_color_by_score(scores, metric),
            text=[describe_trial(r, metric) for r in finished],
            hoverinfo="text",
        )
    if (best := study.chosen) is not None:
        figure.add_scatter(
            x=[best.values[x]], y=[best.values[y]], mode="markers", name="chosen", marker=RING, hoverinfo="skip"
        )
    add_scoreless(figure, study, lambda r: (r.values[x], r.values[y]))
    axes = [make_axis(find_axis(study.space, name)) for name in (x, y)]
    figure.update_layout(xaxis=axes[0], yaxis=axes[1])
    return apply_style(figure, 480)


def _add_contours(figure: go.Figure, x: np.ndarray, y: np.ndarray, scores: np.ndarray) -> None:
    """Add the interpolated scores behind the trials."""
    figure.add_contour(
        x=x,
        y=y,
        z=scores,
        colorscale=SCORES,
        opacity=0.45,
        showscale=False,
        hoverinfo="skip",
        contours={"showlines": False},
        ncontours=14,
        connectgaps=False,
    )


def _color_by_score(scores: Sequence[float], metric: str) -> dict[str, Any]:
    """The marker of trials that are coloured by their score."""
    return {
        "color": scores,
        "colorscale": SCORES,
        "size": 12,
        "line": {"width": 1, "color": GREY},
        "colorbar": {"title": label_with_unit(metric).replace(" (", "<br>("), "len": 0.9},
    }


def add_scoreless(figure: go.Figure, study: StudyRecord, at: Place, **where: int) -> None:
    """Add the trials without a score: stopped early, failed, not finished.

    Args:
        figure: Receives them.
        study: The study.
        at: Gives the position of a trial; None to leave it out.
        **where: Row and column of the panel.
    """
    for state, symbol, color, label in SCORELESS:
        found = [(r, point) for r in study.in_state(state) if r.values and (point := at(r)) is not None]
        if found:
            lost, points = zip(*found, strict=True)
            figure.add_scatter(
                x=[p[0] for p in points],
                y=[p[1] for p in points],
                mode="markers",
                name=label,
                marker={"symbol": symbol, "color": color, "size": 9},
                text=[describe_trial(r, study.objective) for r in lost],
                hoverinfo="text",
                legendgroup=label,
                showlegend=(where.get("row", 1), where.get("col", 1)) == (1, 1),
                **where,
            )


def interpolate_scores(study: StudyRecord, scores: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """A grid of scores between finished trials; None for fewer than four trials, or trials on a line."""
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    names, done = list(study.space), study.in_state("finished")
    if len(done) < 4:
        return None
    logs = [study.space[name].log for name in names]
    points = np.array([[r.values[name] for name in names] for r in done])
    points[:, logs] = np.log10(points[:, logs])
    low, width = points.min(0), np.ptp(points, 0)
    if not width.all():
        return None
    axes = [np.linspace(low[k], low[k] + width[k], 60) for k in (0, 1)]
    try:
        mesh = np.stack(np.meshgrid(*axes), -1)
        values = griddata((points - low) / width, np.array(scores), (mesh - low) / width, method="linear")
    except QhullError:
        return None
    along, up = (10**axis if log else axis for axis, log in zip(axes, logs, strict=True))
    return along, up, values


def plot_slices(study: StudyRecord) -> go.Figure:
    """A panel per hyperparameter with the objective of all trials that have it; references are lines."""
    metric, drawn = study.objective, [record for record in study.trials if record.values]
    axes = [find_axis(study.space, name, drawn) for name in study.space]
    rows, columns = arrange_panels(len(axes))
    gaps = {"horizontal_spacing": 0.03, "vertical_spacing": 0.45 / (2 * rows)}
    figure = make_subplots(rows, columns, **gaps)
    for number, axis in enumerate(axes):
        row, column = number // columns + 1, number % columns + 1
        places = axis.place_trials(drawn)
        add_slice(figure, study, axis, places, row, column)
        figure.update_xaxes(**make_axis(axis, places.values()), row=row, col=column)
        for algorithm in ("finetuning", "joint"):
            record = study.reference(algorithm)
            if record is not None and metric in record.metrics:
                line = {"dash": DASHES[algorithm], "color": LINES[algorithm]}
                named = {"annotation_text": algorithm} if number == 0 else {}
                level = to_display_units(metric, record.metrics[metric])
                figure.add_hline(level, line=line, row=row, col=column, **named)
    # Plotly loses the data of axes that match each other, so each axis gets the same range.
    figure.update_yaxes(range=find_score_range(study), showticklabels=False)
    figure.update_yaxes(title=label_with_unit(metric), showticklabels=True, col=1)
    return apply_style(figure, 420 if rows == 1 else 120 + 290 * rows).update_layout(legend_y=1.02 + 0.03 / rows)


def find_score_range(study: StudyRecord) -> list[float] | None:
    """The range of the scores of trials with their spread, and of the references; None without any."""
    metric, done = study.objective, study.in_state("finished")
    lines = [record for name in ("finetuning", "joint") if (record := study.reference(name)) is not None]
    scores, spread = (np.array(display_scores(done, metric, spread=of)) for of in (False, True))
    found = [*(scores - spread), *(scores + spread), *display_scores([r for r in lines if metric in r.metrics], metric)]
    if not found:
        return None
    margin = 0.06 * (max(found) - min(found)) or 1.0
    return [min(found) - margin, max(found) + margin]


def add_slice(
    figure: go.Figure, study: StudyRecord, axis: Axis, places: Mapping[str, float], row: int, column: int
) -> None:
    """Add the panel of one hyperparameter. Trials without a score are drawn at the worst score.

    Args:
        figure: Receives the panel.
        study: The study.
        axis: The hyperparameter.
        places: Label of each trial that has it -> where it lies.
        row: Row of the panel.
        column: Column of the panel.
    """
    metric = study.objective
    scores = display_scores(study.in_state("finished"), metric)
    worst = (min(scores) if sign(metric) > 0 else max(scores)) if scores else 0.0
    done = [record for record in study.in_state("finished") if record.label in places]
    scores = display_scores(done, metric)
    where: dict[str, Any] = {"mode": "markers", "showlegend": (row, column) == (1, 1), "row": row, "col": column}
    spread = {"array": display_scores(done, metric, spread=True), "color": GREY, "thickness": 1}
    figure.add_scatter(
        x=[places[r.label] for r in done],
        y=scores,
        error_y=spread,
        name="finished, ± std over seeds",
        legendgroup="finished",
        marker={"color": BLUE, "size": 8},
        text=[describe_trial(r, metric) for r in done],
        hoverinfo="text",
        **where,
    )
    add_scoreless(figure, study, lambda r: (places[r.label], worst) if r.label in places else None, row=row, col=column)
    if (best := study.chosen) is not None and best.label in places:
        at = {"x": [places[best.label]], "y": display_scores([best], metric)}
        figure.add_scatter(**at, name="chosen", legendgroup="chosen", marker=RING, hoverinfo="skip", **where)
