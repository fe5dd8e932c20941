"""The objective over the searched hyperparameters, all trials shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clsearch.common.formatting import label_with_unit, to_display_units
from clsearch.planning.objectives import sign
from clsearch.records.study_record import Reading
from clsearch.reporting.html.style import (
    BLUE,
    DASHES,
    GREY,
    LINES,
    RED,
    RING,
    SCORES,
    axis_of,
    scores_of,
    shaped,
    told,
)

SCORELESS = (
    ("pruned", "circle-open", GREY, "stopped early"),
    ("failed", "x", RED, "failed"),
    ("unfinished", "diamond-open", GREY, "not finished"),
    ("running", "diamond-open", GREY, "running"),
)
"""State, symbol, colour and label of trials without a score."""


def response(study: Reading) -> go.Figure | None:
    """The objective over the searched hyperparameters: a surface for two, panels otherwise."""
    if not study.space or not study.trials:
        return None
    return surface(study) if len(study.space) == 2 else slices(study)


def surface(study: Reading) -> go.Figure:
    """All trials over two hyperparameters, before a linear interpolation of the finished ones."""
    (x, y), done, metric = study.space, study.in_state("finished"), study.objective
    figure = go.Figure()
    scores = scores_of(done, metric)
    bar = {"title": label_with_unit(metric).replace(" (", "<br>("), "len": 0.9}
    if (grid := interpolated(study, scores)) is not None:
        along, up, values = grid
        figure.add_contour(
            x=along,
            y=up,
            z=values,
            colorscale=SCORES,
            opacity=0.45,
            showscale=False,
            hoverinfo="skip",
            contours={"showlines": False},
            ncontours=14,
            connectgaps=False,
        )
    if done:
        marker = {
            "color": scores,
            "colorscale": SCORES,
            "size": 12,
            "line": {"width": 1, "color": GREY},
            "colorbar": bar,
        }
        figure.add_scatter(
            x=[r.values[x] for r in done],
            y=[r.values[y] for r in done],
            mode="markers",
            name="finished",
            marker=marker,
            text=[told(r, metric) for r in done],
            hoverinfo="text",
        )
    for record in [study.chosen] if study.chosen is not None else []:
        figure.add_scatter(
            x=[record.values[x]], y=[record.values[y]], mode="markers", name="chosen", marker=RING, hoverinfo="skip"
        )
    add_scoreless(figure, study, lambda r: (r.values[x], r.values[y]))
    figure.update_layout(xaxis=axis_of(study.space, x), yaxis=axis_of(study.space, y))
    return shaped(figure, 480)


def add_scoreless(figure: go.Figure, study: Reading, at: Any, **where: int) -> None:
    """Trials without a score: stopped early, failed, not finished."""
    for state, symbol, color, label in SCORELESS:
        if lost := [r for r in study.in_state(state) if r.values]:
            points = [at(r) for r in lost]
            figure.add_scatter(
                x=[p[0] for p in points],
                y=[p[1] for p in points],
                mode="markers",
                name=label,
                marker={"symbol": symbol, "color": color, "size": 9},
                text=[told(r, study.objective) for r in lost],
                hoverinfo="text",
                legendgroup=label,
                showlegend=where.get("col", 1) == 1,
                **where,
            )


def interpolated(study: Reading, scores: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """A grid over two hyperparameters with the scores between finished trials; None for too few, or ones in a line."""
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    names, done = list(study.space), study.in_state("finished")
    if len(done) < 4:
        return None
    logs = [study.space[name]["log"] for name in names]
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


def slices(study: Reading) -> go.Figure:
    """The objective over each hyperparameter, a panel for each, with references as lines."""
    names, metric = list(study.space), study.objective
    figure = make_subplots(1, len(names), shared_yaxes=True, horizontal_spacing=0.03)
    for column, name in enumerate(names, start=1):
        add_slice(figure, study, name, column)
        figure.update_xaxes(**axis_of(study.space, name), row=1, col=column)
        for algorithm in ("finetuning", "joint"):
            record = study.reference(algorithm)
            if record is not None and metric in record.metrics:
                line = {"dash": DASHES[algorithm], "color": LINES[algorithm]}
                named = {"annotation_text": algorithm} if column == 1 else {}
                figure.add_hline(to_display_units(metric, record.metrics[metric]), line=line, col=column, **named)
    figure.update_yaxes(title=label_with_unit(metric), row=1, col=1)
    return shaped(figure, 420)


def add_slice(figure: go.Figure, study: Reading, name: str, column: int) -> None:
    """The objective over one hyperparameter, in a panel of its own; trials without a score at the worst one."""
    done, metric = study.in_state("finished"), study.objective
    scores = scores_of(done, metric)
    worst = (min(scores) if sign(metric) > 0 else max(scores)) if scores else 0.0
    where: dict[str, Any] = {"mode": "markers", "showlegend": column == 1, "row": 1, "col": column}
    spread = {"array": scores_of(done, metric, spread=True), "color": GREY, "thickness": 1}
    figure.add_scatter(
        x=[r.values[name] for r in done],
        y=scores,
        error_y=spread,
        name="finished, ± std over seeds",
        legendgroup="finished",
        marker={"color": BLUE, "size": 8},
        text=[told(r, metric) for r in done],
        hoverinfo="text",
        **where,
    )
    add_scoreless(figure, study, lambda r: (r.values[name], worst), row=1, col=column)
    if (best := study.chosen) is not None:
        at = {"x": [best.values[name]], "y": scores_of([best], metric)}
        figure.add_scatter(**at, name="chosen", legendgroup="chosen", marker=RING, hoverinfo="skip", **where)
