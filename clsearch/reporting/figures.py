"""Pictures as files (matplotlib). They need no display and no global state, so a thread can draw them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from clsearch.common.formatting import humanize, label_with_unit, to_display_units
from clsearch.config.spaces import SearchSpace
from clsearch.planning.objectives import sign
from clsearch.reporting.axes import Axis, arrange_panels, find_axis, is_map

if TYPE_CHECKING:
    from clsearch.records.ranking import Ranking
    from clsearch.records.trials import TrialRecord

COLORS = "viridis"
"""Safe for colour-blind readers, and ordered in grey."""

RING: dict[str, Any] = {"s": 240, "facecolors": "none", "edgecolors": "black", "linewidths": 1.8}
"""The ring around the chosen trial."""

NOTE_WIDTH, TICKS_WIDTH = 38, 34
"""Characters of a line below a panel, and of the texts of its ticks if they are not turned."""

SCORELESS = (("failed", "x", "failed"), ("pruned", ".", "stopped early"))
"""State, marker and label of trials without a score."""


def draw_accuracy_matrix(R: np.ndarray, title: str, tasks: Sequence[int] = ()) -> Figure:
    """An accuracy matrix, mean over seeds: rows are tasks learned, columns the tasks measured.

    Fixed axes without a colour bar (the cells hold the numbers) take a third of the time of a constrained layout, and
    every trial has this picture.

    Args:
        R: Accuracies [M, T+1, T].
        title: Title of the picture.
        tasks: Numbers of the tasks; 1 to T by default.
    """
    matrix = R.mean(axis=0)[1:]
    matrix = matrix[~np.isnan(matrix).all(axis=1)]  # drop rows of tasks that were not reached
    rows, T = matrix.shape
    names = [str(task) for task in tasks or range(1, T + 1)]
    width, height = 1.2 + 0.62 * T, 1.2 + 0.5 * rows
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.8 / width, 0.6 / height, 0.62 * T / width, 0.5 * rows / height))
    axes.imshow(matrix, vmin=0, vmax=1, cmap=COLORS, aspect="auto")
    for (i, j), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            color = "black" if value > 0.6 else "white"
            axes.text(j, i, f"{100 * value:.1f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(T), names)
    axes.set_yticks(range(rows), names[:rows])
    axes.set(xlabel="task", ylabel="after learning task")
    axes.set_title(f"{title}, mean over seeds", fontsize=10, loc="left")
    return figure


def draw_response(
    records: list[TrialRecord], space: SearchSpace, levels: dict[str, float], metric: str, best: TrialRecord | None
) -> Figure | None:
    """A metric over the searched hyperparameters: a map for two with numbers, else a panel for each.

    Args:
        records: Trials in any state.
        space: The searched hyperparameters.
        levels: The value of the metric of each reference, on the same seeds.
        metric: Name of the metric.
        best: The chosen trial.

    Returns:
        The picture; None if nothing was searched or no trial finished.
    """
    if not space or best is None:
        return None
    drawn = [record for record in records if record.state in ("finished", *(state for state, *_ in SCORELESS))]
    axes = [find_axis(space, name, drawn) for name in space]
    flat = is_map(space)
    rows, columns = (1, 1) if flat else arrange_panels(len(axes))
    size = (6.4 if columns == 1 else 3.4 * columns, 4.4 if rows == 1 else 3.5 * rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for panel in panels[1 if flat else len(axes) :]:
        panel.remove()
    if flat:
        _draw_map(figure, panels[0], drawn, axes, levels.get("finetuning"), metric, best)
        _set_axis(panels[0], axes[1], "y")
    for number, (panel, axis) in enumerate(zip(panels, axes[: 1 if flat else None], strict=False)):
        if not flat:
            _draw_points(panel, drawn, axis, levels, metric, best)
            panel.set_ylabel("" if number % columns else label_with_unit(metric))
        _set_axis(panel, axis, "x")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _set_axis(panel: Axes, axis: Axis, direction: Literal["x", "y"]) -> None:
    """Set the scale, the ticks and the label of one side of a panel."""
    side = panel.xaxis if direction == "x" else panel.yaxis
    panel.set(**{f"{direction}scale": "log" if axis.log else "linear"})
    side.set_label_text("\n".join([humanize(axis.name), *textwrap.wrap(axis.note, NOTE_WIDTH)]))
    if axis.ticks:
        places, names = zip(*axis.ticks, strict=True)
        side.set_ticks(places, names)
        side.set_minor_locator(NullLocator())
        if direction == "x" and sum(map(len, names)) + len(names) > TICKS_WIDTH:
            panel.tick_params("x", labelrotation=30)
            for label in panel.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
    if axis.choices:
        panel.set(**{f"{direction}lim": (-0.6, len(axis.choices) - 0.4)})


def _split_by_score(
    records: list[TrialRecord], metric: str
) -> tuple[list[TrialRecord], np.ndarray, list[tuple[list[TrialRecord], str, str]]]:
    """Finished trials, their scores in display units, and (trials, marker, label) of trials without a score."""
    done = [r for r in records if r.state == "finished"]
    scores = np.array([to_display_units(metric, r.metrics[metric]) for r in done])
    lost = [([r for r in records if r.state == state], mark, label) for state, mark, label in SCORELESS]
    return done, scores, [entry for entry in lost if entry[0]]


def _draw_points(
    panel: Axes, records: list[TrialRecord], axis: Axis, levels: dict[str, float], metric: str, best: TrialRecord
) -> None:
    """Draw the trials that have a hyperparameter, and a line per reference."""
    _, scores, _ = _split_by_score(records, metric)
    worst = scores.min() if sign(metric) > 0 else scores.max()
    places = axis.place_trials(records)
    done, scores, scoreless = _split_by_score([r for r in records if r.label in places], metric)
    spread = [to_display_units(metric, r.metrics.get(f"{metric}/std", 0.0)) for r in done]
    x: Any = [places[r.label] for r in done]
    panel.errorbar(x, scores, spread, fmt="o", color="#542788", ecolor="#bbbbbb", label="trial, ± std over seeds")
    for lost, mark, label in scoreless:
        at: Any = [places[r.label] for r in lost]
        panel.plot(at, [worst] * len(at), mark, color="#444444", label=f"{label} (no score)")
    if best.label in places:
        panel.scatter([places[best.label]], [to_display_units(metric, best.metrics[metric])], **RING, label="chosen")
    for (reference, level), style in zip(levels.items(), ("--", ":", "-."), strict=False):
        panel.axhline(to_display_units(metric, level), color="#b35806", ls=style, label=reference)


def _draw_map(
    figure: Figure,
    panel: Axes,
    records: list[TrialRecord],
    axes: list[Axis],
    reference: float | None,
    metric: str,
    best: TrialRecord,
) -> None:
    done, scores, scoreless = _split_by_score(records, metric)
    middle = np.nan if reference is None else to_display_units(metric, reference)
    around = scores.min() < middle < scores.max()
    norm = TwoSlopeNorm(middle, scores.min(), scores.max()) if around else None
    x, y = (_positions(done, axis) for axis in axes)
    colors = ("PuOr_r" if sign(metric) > 0 else "PuOr") if around else COLORS
    style: dict[str, Any] = {"c": scores, "cmap": colors, "norm": norm}
    points = panel.scatter(x, y, s=70, edgecolors="black", linewidths=0.6, **style)
    panel.scatter(*(_positions([best], axis) for axis in axes), **RING, label="chosen")
    for lost, mark, label in scoreless:
        panel.scatter(*(_positions(lost, axis) for axis in axes), marker=mark, color="#444444", label=label)
    bar = figure.colorbar(points, ax=panel, label=label_with_unit(metric))
    if around:
        ends = (float(scores.min()), middle, float(scores.max()))
        bar.set_ticks(ends, labels=[f"{ends[0]:.1f}", f"{middle:.1f}\nfinetuning", f"{ends[2]:.1f}"])


def _positions(records: list[TrialRecord], axis: Axis) -> Any:
    """Return where trials lie, for matplotlib."""
    return [axis.place(record.values[axis.name]) for record in records]


def draw_pareto_front(ranking: Ranking, references: list[TrialRecord]) -> Figure:
    """Trials over the first two objectives, the Pareto front as a line and a ring around its knee."""
    names, trials = ranking.objectives[:2], ranking.trials
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()

    def at(records: list[TrialRecord]) -> list[list[float]]:
        return [[to_display_units(name, record.metrics[name]) for record in records] for name in names]

    on_front = [r for r in trials if r.label in ranking.front]
    others = [r for r in trials if r.label not in ranking.front]
    axes.plot(*at(others), "o", color="#bbbbbb", label="dominated")
    on_front.sort(key=lambda record: record.metrics[names[0]])
    two = len(ranking.objectives) == 2  # with more objectives the front is no line in two of them
    axes.plot(*at(on_front), "o-" if two else "o", color="#542788", label="Pareto front")
    axes.scatter(*at(trials[:1]), **RING, label="knee (chosen)")
    finished = [r for r in references if r.state == "finished"]
    for record, mark in zip(finished, "sD^", strict=False):
        axes.plot(*at([record]), mark, color="#b35806", label=record.algorithm)
    axes.set(xlabel=label_with_unit(names[0]), ylabel=label_with_unit(names[1]))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
