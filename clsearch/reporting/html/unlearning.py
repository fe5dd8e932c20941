"""A report's section on unlearning: what each request took, task by task."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clsearch.common.formatting import DISTANCE
from clsearch.config.unlearning import unlearned_by
from clsearch.records.ranking import unlearning_of
from clsearch.records.study_record import Reading
from clsearch.reporting.html.page import Part, Table, drawn
from clsearch.reporting.html.search_plots import trade_off
from clsearch.reporting.html.style import BLUE, GREY, ORANGE, shaped
from clsearch.reporting.unlearning_text import Taken, listed, taken, trade_off_reading, unlearning_reading


def unlearning(study: Reading) -> list[Part]:
    """The section, where a study has requests."""
    if not study.requests:
        return []
    best = study.chosen
    if best is None or not best.unlearning:
        return [Part("unlearning", "Unlearning", ["No trial has finished, so there is nothing to show."])]
    seen = (
        "A panel per request: accuracy of the chosen configuration on each task learned by then, before and after it, "
        "on validation data of the search's seeds. Unlearned tasks should fall to chance (the dashes), the others stay."
    )
    lines = [seen, *unlearning_reading(best, study.requests, study.references), *trade_off_reading(study.ranking)]
    lines.append("Below it, all trials: up and left is better; the line is the front.")
    head = ("after task", "unlearned", "accuracy on them (%)", "chance (%)", "on retained tasks (%)", "distance")
    rows = [row_of(found) for found in taken(best, study.requests)]
    figures = [*drawn(before_and_after(study), "unlearning"), *drawn(trade_off(study, DISTANCE), "distance")]
    return [Part("unlearning", "Unlearning", lines, figures, [Table(head, rows)])]


def row_of(found: Taken) -> list[str]:
    """A request's row: before → after."""
    pairs = [f"{100 * before:.2f} → {100 * after:.2f}" for before, after in (found.unlearned, found.retained)]
    distance = "–" if np.isnan(found.distance) else f"{found.distance:.3g}"
    return [str(found.after), listed(found.tasks), pairs[0], f"{100 * found.chance:.2f}", pairs[1], distance]


def before_and_after(study: Reading) -> go.Figure:
    """Accuracy on each task before and after each request, mean and standard deviation over seeds."""
    assert study.chosen is not None
    measured = {name: 100 * values.numpy() for name, values in unlearning_of(study.chosen).items()}
    titles = [f"after task {at}, unlearning {listed(tasks)}" for at, tasks in study.requests.items()]
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
    return shaped(figure, 360, barmode="group").update_layout(legend_y=1.12)
