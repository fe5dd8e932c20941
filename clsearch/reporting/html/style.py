"""The common style of the report's pictures: colours, axes, hover text.

The colours are those of Okabe and Ito: colour-blind readers can distinguish them, on white and on black.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from textwrap import wrap
from typing import Any

import numpy as np
import plotly.graph_objects as go

from clsearch.common.formatting import format_number, humanize, to_display_units, unit_suffix
from clsearch.config.plain_values import show_value
from clsearch.records.trials import TrialRecord
from clsearch.reporting.axes import NOTE_WIDTH, Axis
from clsearch.reporting.trial_names import describe_origin

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#2a8fd0", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#8c8c8c"
GRID = "rgba(128,128,128,0.25)"
LINES = {"chosen": BLUE, "finetuning": ORANGE, "joint": GREEN, "independent": PURPLE}
DASHES = {"chosen": "solid", "finetuning": "dash", "joint": "dot", "independent": "dashdot"}
SCORES = "Cividis"
"""Made for colour-blind readers; ordered in grey."""

RING = {"size": 20, "symbol": "circle-open", "color": RED, "line": {"width": 3}}
"""The ring around the chosen trial."""


def apply_style(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """Give a figure the common layout: transparent, so that the page's colours show through. Returns the figure."""
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


def display_scores(records: Iterable[TrialRecord], metric: str, spread: bool = False) -> list[float]:
    """A metric of each trial in display units; with `spread` its standard deviation, 0 for one seed."""
    name = f"{metric}/std" if spread else metric
    return [
        to_display_units(metric, record.metrics.get(name, 0.0) if spread else record.metrics[name])
        for record in records
    ]


def describe_trial(record: TrialRecord, metric: str) -> str:
    """The hover text of a trial: number, state, hyperparameters, score or reason."""
    lines = [f"<b>trial {record.number}</b> ({record.state})"]
    lines += [escape(describe_origin(record))] if record.origin else []
    lines += [f"{humanize(name)} = {escape(show_value(value, 4))}" for name, value in record.values.items()]
    if metric in record.metrics and record.state == "finished":
        spread = record.metrics.get(f"{metric}/std")
        more = "" if spread is None else f" ± {format_number(metric, spread)}"
        lines.append(f"{humanize(metric)} {format_number(metric, record.metrics[metric])}{more}{unit_suffix(metric)}")
        lines += [f"{len(record.seeds)} seeds"] if record.groups else []
    elif record.reason:
        lines.append(record.reason[:80])
    return "<br>".join(lines)


def make_axis(axis: Axis, places: Iterable[float] = ()) -> dict[str, Any]:
    """The axis of a hyperparameter for plotly; choices are numbers that are called by their names.

    Args:
        axis: The hyperparameter.
        places: Where trials lie.
    """
    notes = (f"<br><span style='font-size:0.8em'>{escape(line)}</span>" for line in wrap(axis.note, NOTE_WIDTH))
    made: dict[str, Any] = {"title": humanize(axis.name) + "".join(notes), "type": "log" if axis.log else "linear"}
    made["exponentformat"] = "power"
    logs = [math.log10(place) for place in places] if axis.log else []
    if logs and math.floor(max(logs)) > math.ceil(min(logs)):
        made["dtick"] = 1  # powers of ten alone; plotly's digits between them overlap in narrow panels
    if axis.ticks:
        made["tickvals"], names = zip(*axis.ticks, strict=True)
        made["ticktext"] = [*map(escape, names)]
    if axis.choices:
        made["range"] = [-0.6, len(axis.choices) - 0.4]
    return made


def make_transparent(color: str, opacity: float = 0.2) -> str:
    """A colour #rrggbb with an opacity below 1."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


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
    """Add the mean of percentages [M, n] over seeds with a band of one deviation. first: name it in the legend."""
    mean = values.mean(0)
    spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(mean)
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*(mean + spread).clip(max=100), *(mean - spread).clip(min=0)[::-1]],
        fill="toself",
        fillcolor=make_transparent(color),
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
