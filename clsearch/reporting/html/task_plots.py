"""Figures of the accuracy and forgetting of each task; None if there is nothing to show."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clsearch import metrics
from clsearch.config.unlearning import unlearned_by
from clsearch.records.study_record import StudyRecord
from clsearch.reporting.html.style import DASHES, GREY, LINES, add_band, apply_style

COLUMNS = 5
"""Panels in a row."""


def plot_tasks(study: StudyRecord) -> go.Figure | None:
    """Accuracy on each task as later tasks are learned: a panel per task, mean and standard deviation over seeds."""
    found = {name: 100 * m for name, m in study.complete_matrices.items() if name in ("chosen", "finetuning")}
    if "chosen" not in found:
        return None
    T = found["chosen"].shape[2]
    rows, columns = -(-T // COLUMNS), min(T, COLUMNS)
    unlearned = unlearned_by(study.requests, T)
    titles = [f"task {j}, unlearned" if j in unlearned else f"task {j}" for j in range(1, T + 1)]
    gaps = {"horizontal_spacing": 0.02, "vertical_spacing": 0.35 / (2 * rows)}
    figure = make_subplots(rows, columns, subplot_titles=titles, **gaps)
    lowest = 100.0
    for j in range(T):
        where = {"row": j // columns + 1, "col": j % columns + 1}
        for name, matrix in found.items():
            values = matrix[:, j + 1 :, j]
            lowest = min(lowest, float(values.min()))
            add_band(figure, list(range(j + 1, T + 1)), values, name, LINES[name], DASHES[name], first=j == 0, **where)
    # Plotly loses the data of axes that match each other here, so each axis gets the same range.
    figure.update_xaxes(range=[0.7, T + 0.3], dtick=max(1, T // 5))
    figure.update_xaxes(title="tasks learned", row=rows)
    figure.update_yaxes(range=[max(0.0, lowest - 8), 102], showticklabels=False)
    figure.update_yaxes(title="accuracy (%)", showticklabels=True, col=1)
    return apply_style(figure, 120 + 190 * rows).update_layout(legend_y=1.02 + 0.12 / rows)


def plot_forgetting(study: StudyRecord) -> go.Figure | None:
    """Forgetting of each task at the end: its best earlier accuracy minus its last one."""
    figure = go.Figure()
    for name, matrix in study.matrices.items():
        if name == "joint" or matrix.shape[2] < 2:
            continue
        lost = 100 * metrics.forgetting(matrix, matrix.shape[2])
        spread = lost.std(0, ddof=1) if len(lost) > 1 else np.zeros(lost.shape[1])
        figure.add_bar(
            x=list(range(1, lost.shape[1] + 1)),
            y=lost.mean(0),
            error_y={"array": spread, "color": GREY},
            name=name,
            marker={"color": LINES[name]},
            hovertemplate="task %{x}: %{y:.1f} points",
        )
    if not figure.data or "chosen" not in study.matrices:
        return None
    figure.update_xaxes(title="task", dtick=1)
    figure.update_yaxes(title="forgotten (points)")
    return apply_style(figure, 340, barmode="group")


def plot_matrix(study: StudyRecord) -> go.Figure | None:
    """The accuracy matrix R of the chosen configuration, mean over seeds."""
    matrix = study.complete_matrices.get("chosen")
    if matrix is None:
        return None
    mean = 100 * matrix.mean(0)[1:]
    T = mean.shape[1]
    text = [["" if np.isnan(v) else f"{v:.1f}" for v in row] for row in mean]
    figure = go.Figure(
        go.Heatmap(
            x=list(range(1, T + 1)),
            y=list(range(1, T + 1)),
            z=mean,
            zmin=0,
            zmax=100,
            colorscale="Viridis",
            text=text,
            texttemplate="%{text}" if T <= 12 else None,
            colorbar={"title": "accuracy<br>(%)"},
            hovertemplate="task %{x} after learning task %{y}: %{z:.1f} %<extra></extra>",
        )
    )
    figure.update_xaxes(title="task measured", dtick=1, showgrid=False)
    figure.update_yaxes(title="after learning task", dtick=1, autorange="reversed", showgrid=False)
    return apply_style(figure, 160 + 34 * T)
