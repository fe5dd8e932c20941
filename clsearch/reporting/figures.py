"""Pictures as files (matplotlib). They need no display and no global state, so a thread can draw them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from clsearch.common.formatting import label_with_unit, to_display_units
from clsearch.config.spaces import SearchSpace
from clsearch.planning.objectives import sign

if TYPE_CHECKING:
    from clsearch.records.ranking import Ranking
    from clsearch.records.trials import TrialRecord

COLORS = "viridis"
"""Safe for colour-blind readers, and ordered in grey."""

RING: dict[str, Any] = {"s": 240, "facecolors": "none", "edgecolors": "black", "linewidths": 1.8}
"""The ring around the chosen trial."""

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
    """A metric over the searched hyperparameters: a map for two of them, else a panel for each.

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
    flat = len(space) == 2
    columns = 1 if flat else len(space)
    figure = Figure(figsize=(6.4 if columns == 1 else 3.4 * columns, 4.4), layout="constrained")
    panels = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    if flat:
        _draw_map(figure, panels[0], records, list(space), levels.get("finetuning"), metric, best)
        name, values = list(space.items())[1]
        panels[0].set(ylabel=name.replace("_", " "), yscale="log" if values.log else "linear")
    for axes, (name, values) in zip(panels, space.items(), strict=False):
        if not flat:
            _draw_points(axes, records, name, levels, metric)
        axes.set(xlabel=name.replace("_", " "), xscale="log" if values.log else "linear")
    if not flat:
        panels[0].set_ylabel(label_with_unit(metric))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _split_by_score(
    records: list[TrialRecord], metric: str
) -> tuple[list[TrialRecord], np.ndarray, list[tuple[list[TrialRecord], str, str]]]:
    """Finished trials, their scores in display units, and (trials, marker, label) of trials without a score."""
    done = [r for r in records if r.state == "finished"]
    scores = np.array([to_display_units(metric, r.metrics[metric]) for r in done])
    lost = [([r for r in records if r.state == state], mark, label) for state, mark, label in SCORELESS]
    return done, scores, [entry for entry in lost if entry[0]]


def _draw_points(axes: Axes, records: list[TrialRecord], name: str, levels: dict[str, float], metric: str) -> None:
    done, scores, scoreless = _split_by_score(records, metric)
    spread = [to_display_units(metric, r.metrics.get(f"{metric}/std", 0.0)) for r in done]
    x: Any = [r.values[name] for r in done]
    axes.errorbar(x, scores, spread, fmt="o", color="#542788", ecolor="#bbbbbb", label="trial, ± std over seeds")
    worst = scores.min() if sign(metric) > 0 else scores.max()
    for lost, mark, label in scoreless:
        at: Any = [r.values[name] for r in lost]
        axes.plot(at, [worst] * len(at), mark, color="#444444", label=f"{label} (no score)")
    for (reference, level), style in zip(levels.items(), ("--", ":", "-."), strict=False):
        axes.axhline(to_display_units(metric, level), color="#b35806", ls=style, label=reference)


def _draw_map(
    figure: Figure,
    axes: Axes,
    records: list[TrialRecord],
    names: list[str],
    reference: float | None,
    metric: str,
    best: TrialRecord,
) -> None:
    done, scores, scoreless = _split_by_score(records, metric)
    middle = np.nan if reference is None else to_display_units(metric, reference)
    around = scores.min() < middle < scores.max()
    norm = TwoSlopeNorm(middle, scores.min(), scores.max()) if around else None
    x, y = (_positions(done, name) for name in names)
    colors = ("PuOr_r" if sign(metric) > 0 else "PuOr") if around else COLORS
    style: dict[str, Any] = {"c": scores, "cmap": colors, "norm": norm}
    points = axes.scatter(x, y, s=70, edgecolors="black", linewidths=0.6, **style)
    axes.scatter(*(_positions([best], name) for name in names), **RING, label="chosen")
    for lost, mark, label in scoreless:
        axes.scatter(*(_positions(lost, name) for name in names), marker=mark, color="#444444", label=label)
    bar = figure.colorbar(points, ax=axes, label=label_with_unit(metric))
    if around:
        ends = (float(scores.min()), middle, float(scores.max()))
        bar.set_ticks(ends, labels=[f"{ends[0]:.1f}", f"{middle:.1f}\nfinetuning", f"{ends[2]:.1f}"])


def _positions(records: list[TrialRecord], name: str) -> Any:
    """Return the values of a hyperparameter for matplotlib."""
    return [record.values[name] for record in records]


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
