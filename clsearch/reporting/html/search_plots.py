"""Figures of the search and its choice; None if there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from clsearch.common.formatting import humanize, label_with_unit, to_display_units, unit_suffix
from clsearch.config.spaces import SearchSpace
from clsearch.planning.objectives import pareto_front, sign
from clsearch.records.study_record import StudyRecord, base_algorithm
from clsearch.records.trials import TrialRecord
from clsearch.reporting.axes import Axis, find_axis, name_part, round_ticks
from clsearch.reporting.html.style import (
    BLUE,
    GREY,
    LINES,
    ORANGE,
    RED,
    RING,
    apply_style,
    describe_trial,
    display_scores,
)
from clsearch.reporting.importances import Importances

NOT_USED = "not used"
"""Tick of trials to which a hyperparameter does not apply."""

MOST_WIDE_LABELS = 6
"""Axes of parallel coordinates whose names fit beside each other on one line."""


def plot_trade_off(study: StudyRecord, less: str = "average_forgetting") -> go.Figure | None:
    """Average accuracy against a metric to minimize, with the Pareto front of the two."""
    names = (less, "average_accuracy")
    done = [r for r in study.in_state("finished") if all(name in r.metrics for name in names)]
    if not done:
        return None

    def at(records: Sequence[TrialRecord]) -> dict[str, list[float]]:
        return {axis: display_scores(records, name) for axis, name in zip("xy", names, strict=True)}

    broken = [r for r in done if r.label in study.ranking.infeasible]
    done = [r for r in done if r not in broken]
    gains = np.array([[sign(name) * r.metrics[name] for name in names] for r in done]).reshape(len(done), len(names))
    best = sorted((done[i] for i in pareto_front(gains)), key=lambda r: r.metrics[names[0]])
    figure = go.Figure()
    text = {"text": [describe_trial(r, names[1]) for r in done], "hoverinfo": "text"}
    figure.add_scatter(**at(done), mode="markers", name="trial", marker={"color": GREY, "size": 8}, **text)
    if broken:
        cross = {"color": GREY, "size": 8, "symbol": "x-thin-open"}
        text = {"text": [describe_trial(r, names[1]) for r in broken], "hoverinfo": "text"}
        figure.add_scatter(**at(broken), mode="markers", name="breaks a constraint", marker=cross, **text)
    figure.add_scatter(
        **at(best),
        mode="lines+markers",
        name="Pareto front",
        line={"color": BLUE, "width": 2},
        marker={"size": 9},
        text=[describe_trial(r, names[1]) for r in best],
        hoverinfo="text",
    )
    if study.chosen is not None:
        figure.add_scatter(**at([study.chosen]), mode="markers", name="chosen", marker=RING, hoverinfo="skip")
    for record, symbol in zip(study.references, ("square", "diamond", "triangle-up"), strict=False):
        if record.state == "finished" and all(name in record.metrics for name in names):
            mark = {"size": 12, "symbol": symbol, "color": LINES[base_algorithm(record.algorithm)]}
            figure.add_scatter(**at([record]), mode="markers", name=record.algorithm, marker=mark)
    measure = " (points)" if less == "average_forgetting" else ""
    figure.update_xaxes(title=f"{humanize(less)}{measure}: less is better")
    figure.update_yaxes(title="average accuracy (%): more is better")
    return apply_style(figure, 420)


def plot_importance(space: SearchSpace, found: Importances) -> go.Figure | None:
    """The share of the objective's variance that each hyperparameter explains; None if it is unknown."""
    names = {part.key: name_part(part) for part in space.parts}
    groups = [
        ("over all trials", BLUE, {humanize(name): share for name, share in found.shared.items()}),
        ("over the trials to which it applies", ORANGE, {names[k]: share for k, share in found.conditional.items()}),
    ]
    figure, count = go.Figure(), len(found.shared) + len(found.conditional)
    if not count:
        return None
    for label, color, shares in reversed(groups):  # the first is at the top
        ordered = sorted(shares, key=shares.__getitem__)
        if ordered:
            figure.add_bar(
                x=[100 * shares[name] for name in ordered],
                y=[escape(name) for name in ordered],
                orientation="h",
                name=label,
                marker={"color": color},
                hovertemplate="%{y}: %{x:.0f} %<extra></extra>",
            )
    figure.update_xaxes(title="share of the variance of the scores (%)", range=[0, 100])
    two = len(figure.data) > 1
    return apply_style(figure, 120 + 50 * count, showlegend=two).update_layout(legend={"traceorder": "reversed"})


def plot_parallel(study: StudyRecord) -> go.Figure | None:
    """Every finished trial as a line through its hyperparameters and its score. Optuna's version cannot be brushed."""
    done, metric = study.in_state("finished"), study.objective
    if not study.space or len(done) < 2:
        return None
    scores = display_scores(done, metric)
    dimensions: list[dict[str, Any]] = [
        make_dimension(find_axis(study.space, name, done), done) for name in study.space
    ]
    dimensions.append(
        {"label": label_with_unit(metric), "values": scores, "tickvals": round_ticks(min(scores), max(scores))}
    )
    narrow = len(dimensions) > MOST_WIDE_LABELS
    for dimension in dimensions if narrow else ():
        dimension["label"] = dimension["label"].replace(" ", "<br>", 1)
    line = {"color": scores, "colorscale": [[0, GREY], [1, RED]], "reversescale": sign(metric) < 0}
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=line))
    return apply_style(figure, 420).update_layout(margin={"l": 90, "r": 60, "t": 80 if narrow else 60, "b": 30})


def make_dimension(axis: Axis, records: Sequence[TrialRecord]) -> dict[str, Any]:
    """An axis of parallel coordinates, with a tick below all values for trials that do not have the hyperparameter."""
    having = [record for record in records if axis.name in record.values]
    places = np.array([axis.place(record.values[axis.name]) for record in having])
    places = np.log10(places) if axis.log else places
    ticks = find_ticks(axis, places)
    known = [*map(float, places), *(tick for tick, _ in ticks)] or [0.0]
    low, high = min(known), max(known)
    absent = low - (1.0 if axis.choices else 0.15 * (high - low) or 1.0)
    if len(having) < len(records):
        ticks, low = [(absent, NOT_USED), *ticks], absent
    where = iter(places)
    tick_places, texts = zip(*ticks, strict=True)
    return {
        "label": humanize(axis.name),
        "values": [float(next(where)) if axis.name in record.values else absent for record in records],
        "range": [low, high] if low < high else [low - 1, high + 1],
        "tickvals": list(tick_places),
        "ticktext": list(texts),
    }


def find_ticks(axis: Axis, places: np.ndarray) -> list[tuple[float, str]]:
    """The ticks of an axis of parallel coordinates.

    A logarithmic axis has them at powers of ten, or at its ends if there are too few.

    Args:
        axis: The hyperparameter.
        places: Where trials lie, as logarithms on a logarithmic axis.
    """
    if axis.log and axis.ticks:
        return [(math.log10(place), text) for place, text in axis.ticks]
    if axis.ticks or not len(places):
        return list(axis.ticks)
    low, high = float(places.min()), float(places.max())
    if not axis.log:
        return [(tick, f"{tick:g}") for tick in round_ticks(low, high)]
    powers = [float(n) for n in range(math.ceil(low), math.floor(high) + 1)]
    return [(tick, f"{float(f'{10**tick:.3g}'):,.10g}") for tick in (powers if len(powers) > 1 else [low, high])]


def plot_optimism(study: StudyRecord) -> go.Figure | None:
    """The search's score of its choice and its scores on fresh seeds, on validation and test data."""
    if study.final is None or not study.final.optimism:
        return None
    found = study.final.optimism[0]
    name = found.metric
    rows = [("validation, fresh seeds", found.validation, BLUE), ("test, fresh seeds", found.test, RED)]
    figure = go.Figure()
    figure.add_scatter(
        x=[to_display_units(name, found.believed)],
        y=["search estimate"],
        mode="markers",
        marker={"size": 13, "color": GREY},
        hovertemplate=f"%{{x:.2f}}{unit_suffix(name)}<extra></extra>",
    )
    for label, value, color in rows:
        if value is not None:
            ends = {
                "array": [to_display_units(name, value.high - value.mean)],
                "arrayminus": [to_display_units(name, value.mean - value.low)],
            }
            figure.add_scatter(
                x=[to_display_units(name, value.mean)],
                y=[label],
                mode="markers",
                marker={"size": 13, "color": color},
                error_x={"type": "data", "symmetric": False, "thickness": 2.5, "width": 9, **ends},
                hovertemplate=f"%{{x:.2f}}{unit_suffix(name)}<extra></extra>",
            )
    figure.update_xaxes(title=f"{label_with_unit(name)}, with the 95 % interval over seeds")
    figure.update_yaxes(autorange="reversed")
    return apply_style(figure, 240, showlegend=False)


def plot_workers(study: StudyRecord) -> go.Figure | None:
    """A timeline of the workers: a bar per trial, from its start to its end."""
    spans = trial_spans(study)
    if not spans:
        return None
    origin = min(begin for begin, _, _ in spans)
    colors = {"finished": BLUE, "pruned": GREY, "failed": RED}
    bars: dict[str, list[tuple[float, float, str, str]]] = {}  # one trace per kind: a trace takes milliseconds to make
    lanes: list[float] = []
    for begin, end, record in sorted(spans, key=lambda span: span[0]):
        lane = next((n for n, free in enumerate(lanes) if free <= begin + 0.5), len(lanes))
        lanes[lane : lane + 1] = [end]
        kind = "reference" if record.number is None else record.state
        label = record.label if record.number is None else describe_trial(record, study.objective)
        text = f"{label}<br>{end - begin:.1f} s, {record.place}"
        bars.setdefault(kind, []).append((begin - origin, end - begin, f"{lane + 1}", text))
    figure = go.Figure()
    for kind, drawn in bars.items():
        begins, lengths, workers, texts = zip(*drawn, strict=True)
        figure.add_bar(
            x=lengths,
            base=begins,
            y=workers,
            orientation="h",
            name=kind,
            marker={"color": colors.get(kind, "#009e73"), "line": {"width": 0.5}},
            text=texts,
            hoverinfo="text",
            textposition="none",
        )
    figure.update_yaxes(categoryorder="array", categoryarray=[f"{n}" for n in range(1, len(lanes) + 1)])
    figure.update_xaxes(title="seconds since the first trial began")
    figure.update_yaxes(title="worker", autorange="reversed", type="category")
    return apply_style(figure, 160 + 30 * min(len(lanes), 20), barmode="overlay")


def trial_spans(study: StudyRecord) -> list[tuple[float, float, TrialRecord]]:
    """(start, end, record) of trials and references that learned a task, in seconds since 1970.

    A trial that was resumed counts as if it had run without a break before its end.
    """
    ended = [r for r in (*study.trials, *study.references) if r.times]
    return [(r.times[-1] / 1000 - r.seconds, r.times[-1] / 1000, r) for r in ended]
