"""What the report's pictures share: colours, axes, words. Colours are Okabe and Ito's, which colour-blind readers can
tell apart, and carry on white and on black.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from clsearch.tuning.records import TrialRecord

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
        title=None,
        **layout,
    )
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def words(name: str) -> str:
    """A name as an axis has it."""
    return name.replace("_", " ")


def percent(values: Iterable[float]) -> list[float]:
    """Shares in percent."""
    return [100 * value for value in values]


def told(record: TrialRecord, metric: str) -> str:
    """What is shown of a trial under the pointer."""
    lines = [f"<b>trial {record.number}</b> ({record.state})"]
    lines += [f"{words(name)} = {value:.4g}" for name, value in record.values.items()]
    if metric in record.metrics and record.state == "finished":
        spread = record.metrics.get(f"{metric}/std")
        more = "" if spread is None else f" ± {100 * spread:.2f}"
        lines.append(f"{words(metric)} {100 * record.metrics[metric]:.2f}{more} %")
    elif record.reason:
        lines.append(record.reason[:80])
    return "<br>".join(lines)


def axis_of(space: dict[str, Any], name: str) -> dict[str, Any]:
    """An axis of a hyperparameter."""
    return {"title": words(name), "type": "log" if space[name]["log"] else "linear", "exponentformat": "power"}


def see_through(color: str, share: float = 0.2) -> str:
    """A colour of the form #rrggbb, mixed with what lies behind."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"
