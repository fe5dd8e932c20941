"""Figures of the objective over the searched hyperparameters, with all trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clsearch.common.formatting import label_with_unit, to_display_units
from clsearch.planning.objectives import sign
from clsearch.records.study_record import StudyRecord
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


def plot_response(study: StudyRecord) -> go.Figure | None:
    """The objective over the searched hyperparameters: a surface for two, else a panel for each; None without any."""
    if not study.space or not study.trials:
        return None
    return plot_surface(study) if len(study.space) == 2 else plot_slices(study)


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
    figure.update_layout(xaxis=make_axis(study.space, x), yaxis=make_axis(study.space, y))
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


def add_scoreless(figure: go.Figure, study: StudyRecord, at: Any, **where: int) -> None:
    """Add the trials without a score: stopped early, failed, not finished. at: gives the position of a trial."""
    for state, symbol, color, label in SCORELESS:
        if lost := [r for r in study.in_state(state) if r.values]:
            points = [at(r) for r in lost]
            figure.add_scatter(
                x=[p[0] for p in points],
                y=[p[1] for p in points],
                mode="markers",
                name=label,
                marker={"symbol": symbol, "color": color, "size": 9},
                text=[describe_trial(r, study.objective) for r in lost],
                hoverinfo="text",
                legendgroup=label,
                showlegend=where.get("col", 1) == 1,
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
    """A panel per hyperparameter with the objective of all trials; references are lines."""
    names, metric = list(study.space), study.objective
    figure = make_subplots(1, len(names), shared_yaxes=True, horizontal_spacing=0.03)
    for column, name in enumerate(names, start=1):
        add_slice(figure, study, name, column)
        figure.update_xaxes(**make_axis(study.space, name), row=1, col=column)
        for algorithm in ("finetuning", "joint"):
            record = study.reference(algorithm)
            if record is not None and metric in record.metrics:
                line = {"dash": DASHES[algorithm], "color": LINES[algorithm]}
                named = {"annotation_text": algorithm} if column == 1 else {}
                figure.add_hline(to_display_units(metric, record.metrics[metric]), line=line, col=column, **named)
    figure.update_yaxes(title=label_with_unit(metric), row=1, col=1)
    return apply_style(figure, 420)


def add_slice(figure: go.Figure, study: StudyRecord, name: str, column: int) -> None:
    """Add the panel of one hyperparameter. Trials without a score are drawn at the worst score."""
    done, metric = study.in_state("finished"), study.objective
    scores = display_scores(done, metric)
    worst = (min(scores) if sign(metric) > 0 else max(scores)) if scores else 0.0
    where: dict[str, Any] = {"mode": "markers", "showlegend": column == 1, "row": 1, "col": column}
    spread = {"array": display_scores(done, metric, spread=True), "color": GREY, "thickness": 1}
    figure.add_scatter(
        x=[r.values[name] for r in done],
        y=scores,
        error_y=spread,
        name="finished, ± std over seeds",
        legendgroup="finished",
        marker={"color": BLUE, "size": 8},
        text=[describe_trial(r, metric) for r in done],
        hoverinfo="text",
        **where,
    )
    add_scoreless(figure, study, lambda r: (r.values[name], worst), row=1, col=column)
    if (best := study.chosen) is not None:
        at = {"x": [best.values[name]], "y": display_scores([best], metric)}
        figure.add_scatter(**at, name="chosen", legendgroup="chosen", marker=RING, hoverinfo="skip", **where)
