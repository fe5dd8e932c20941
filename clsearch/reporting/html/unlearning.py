"""The report's section on unlearning: the effect of each request, task by task."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clsearch.common.formatting import DISTANCE
from clsearch.config.unlearning import unlearned_by
from clsearch.records.study_record import StudyRecord
from clsearch.records.trial_metrics import unlearning_measurements
from clsearch.reporting.html.page import Section, Table, figure_to_html
from clsearch.reporting.html.search_plots import plot_trade_off
from clsearch.reporting.html.style import BLUE, GREY, ORANGE, apply_style
from clsearch.reporting.unlearning_text import (
    RequestEffect,
    describe_trade_off,
    describe_unlearning,
    join_tasks,
    request_effects,
)

CAPTION = (
    "A panel per request: accuracy of the chosen configuration on each task learned so far, before and after the "
    "request, on validation data of the search's seeds. Unlearned tasks should fall to chance (dashes), retained tasks "
    "should not."
)


def make_unlearning_sections(study: StudyRecord) -> list[Section]:
    """The section, if the study has requests to unlearn."""
    if not study.requests:
        return []
    best = study.chosen
    if best is None or not best.unlearning:
        return [Section("unlearning", "Unlearning", ["No trial has finished, so there is nothing to show."])]
    lines = [CAPTION, *describe_unlearning(best, study.requests, study.references), *describe_trade_off(study.ranking)]
    lines.append("The second picture shows all trials: up and left is better; the line is the Pareto front.")
    head = ("after task", "unlearned", "accuracy on them (%)", "chance (%)", "on retained tasks (%)", "distance")
    rows = [format_effect(effect) for effect in request_effects(best, study.requests)]
    figures = [
        *figure_to_html(plot_unlearning(study), "unlearning"),
        *figure_to_html(plot_trade_off(study, DISTANCE), "distance"),
    ]
    return [Section("unlearning", "Unlearning", lines, figures, [Table(head, rows)])]


def format_effect(effect: RequestEffect) -> list[str]:
    """The row of a request, accuracies as before → after."""
    unlearned, retained = (
        f"{100 * before:.2f} → {100 * after:.2f}" for before, after in (effect.unlearned, effect.retained)
    )
    distance = "–" if np.isnan(effect.distance) else f"{effect.distance:.3g}"
    return [str(effect.after), join_tasks(effect.tasks), unlearned, f"{100 * effect.chance:.2f}", retained, distance]


def plot_unlearning(study: StudyRecord) -> go.Figure:
    """Accuracy on each task before and after each request, mean and standard deviation over seeds."""
    assert study.chosen is not None
    measured = {name: 100 * values for name, values in unlearning_measurements(study.chosen).items()}
    titles = [f"after task {at}, unlearning {join_tasks(tasks)}" for at, tasks in study.requests.items()]
    figure = make_subplots(1, len(titles), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    for column, at in enumerate(study.requests, start=1):
        tasks, where = list(range(1, at + 1)), {"row": 1, "col": column}
        for name, color in (("before", GREY), ("after", BLUE)):
            values = measured[name][:, at, :at]
            figure.add_bar(
                x=tasks,
                y=values.mean(0),
                error_y={"array": values.std(0, ddof=1) if len(values) > 1 else None, "color": GREY},
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                marker={"color": color},
                hovertemplate="task %{x}: %{y:.1f} %",
                **where,
            )
        gone = sorted(unlearned_by(study.requests, at))
        figure.add_scatter(
            x=gone,
            y=[measured["chance"][0, at, task - 1] for task in gone],
            mode="markers",
            marker={"symbol": "line-ew", "size": 34, "line": {"width": 3, "color": ORANGE}},
            name="chance",
            legendgroup="chance",
            showlegend=column == 1,
            hovertemplate="chance %{y:.1f} %",
            **where,
        )
    figure.update_xaxes(title="task", dtick=1)
    figure.update_yaxes(range=[0, 102])
    figure.update_yaxes(title="accuracy (%)", col=1)
    return apply_style(figure, 360, barmode="group").update_layout(legend_y=1.12)
