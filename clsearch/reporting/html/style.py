"""What the report's pictures share: colours, axes, words. Colours are Okabe and Ito's, which colour-blind readers can
tell apart, and carry on white and on black.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go

from clsearch.common.formatting import humanize, to_display_units, unit_suffix
from clsearch.records.trials import TrialRecord

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#2a8fd0", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#8c8c8c"
GRID = "rgba(128,128,128,0.25)"
LINES = {"chosen": BLUE, "finetuning": ORANGE, "joint": GREEN, "independent": PURPLE}
DASHES = {"chosen": "solid", "finetuning": "dash", "joint": "dot", "independent": "dashdot"}
SCORES = "Cividis"
"""Made for colour-blind readers; ordered in grey, too."""

RING = {"size": 20, "symbol": "circle-open", "color": RED, "line": {"width": 3}}
"""Around the chosen trial."""


def shaped(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """A figure as all are: see-through, so that the page's colours show, no more than its axes and data."""
    figure.update_layout(
        height=height,
        margin={"l": 70, "r": 20, "t": 30, "b": 60},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        hoverlabel={"namelength": -1},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": BLUE},
        title=None,
        **layout,
    )
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def scores_of(records: Iterable[TrialRecord], metric: str, spread: bool = False) -> list[float]:
    """A metric of each trial as it is shown, or its standard deviation, 0 for one seed."""
    name = f"{metric}/std" if spread else metric
    return [
        to_display_units(metric, record.metrics.get(name, 0.0) if spread else record.metrics[name])
        for record in records
    ]


def told(record: TrialRecord, metric: str) -> str:
    """What is shown of a trial under the pointer."""
    lines = [f"<b>trial {record.number}</b> ({record.state})"]
    lines += [f"{humanize(name)} = {value:.4g}" for name, value in record.values.items()]
    if metric in record.metrics and record.state == "finished":
        spread = record.metrics.get(f"{metric}/std")
        more = "" if spread is None else f" ± {to_display_units(metric, spread):.2f}"
        lines.append(
            f"{humanize(metric)} {to_display_units(metric, record.metrics[metric]):.2f}{more}{unit_suffix(metric)}"
        )
    elif record.reason:
        lines.append(record.reason[:80])
    return "<br>".join(lines)


def axis_of(space: dict[str, Any], name: str) -> dict[str, Any]:
    """An axis of a hyperparameter."""
    return {"title": humanize(name), "type": "log" if space[name]["log"] else "linear", "exponentformat": "power"}


def see_through(color: str, share: float = 0.2) -> str:
    """A colour of the form #rrggbb, mixed with what lies behind."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"


def add_band(
    figure: go.Figure,
    x: list[int],
    values: np.ndarray,
    name: str,
    color: str,
    dash: str = "solid",
    first: bool = True,
    **where: int,
) -> None:
    """A mean of percentages over seeds [M, n] with a band of one standard deviation. first: of this name, so that the
    legend has it. where: row and col of a panel.
    """
    mean = values.mean(0)
    spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(mean)
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*(mean + spread).clip(max=100), *(mean - spread).clip(min=0)[::-1]],
        fill="toself",
        fillcolor=see_through(color),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
        **where,
    )
    figure.add_scatter(
        x=x,
        y=mean,
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=first,
        line={"color": color, "dash": dash, "width": 2.5},
        marker={"size": 5},
        customdata=spread,
        hovertemplate="after task %{x}: %{y:.1f} ± %{customdata:.1f} %",
        **where,
    )
