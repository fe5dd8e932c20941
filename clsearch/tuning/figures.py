"""Pictures, drawn without a display and without global state, so that a thread may draw them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from clsearch.tuning.spaces import Space

if TYPE_CHECKING:
    from clsearch.tuning.records import TrialRecord

COLORS = "viridis"
"""Colour-blind-safe, and ordered in grey too."""


def accuracy_matrix(record: TrialRecord) -> Figure:
    """R of a trial, mean over seeds: rows are tasks learned, columns the tasks measured.

    Every trial has one, so it is kept cheap: fixed axes and no colour bar (the cells hold the numbers) take a third
    of the time of a constrained layout.
    """
    matrix = np.array(record.accuracy, dtype=float).mean(axis=0)[1 : record.tasks_learned + 1]
    rows, T = matrix.shape
    width, height = 1.2 + 0.62 * T, 1.2 + 0.5 * rows
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.8 / width, 0.6 / height, 0.62 * T / width, 0.5 * rows / height))
    axes.imshow(matrix, vmin=0, vmax=1, cmap=COLORS, aspect="auto")
    for (i, j), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            color = "black" if value > 0.6 else "white"
            axes.text(j, i, f"{100 * value:.1f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(T), [str(j) for j in range(1, T + 1)])
    axes.set_yticks(range(rows), [str(i) for i in range(1, rows + 1)])
    axes.set(xlabel="task", ylabel="after learning task")
    axes.set_title("Validation accuracy (%), mean over seeds", fontsize=10, loc="left")
    return figure


def response(records: list[TrialRecord], space: Space, levels: dict[str, float]) -> Figure | None:
    """Average accuracy over the searched hyperparameters: a map for two, else points, a panel for each; None where
    nothing was searched or no trial finished. levels: each reference's average accuracy on the same seeds.
    """
    if not space or not any(r.state == "finished" for r in records):
        return None
    flat = len(space) == 2
    columns = 1 if flat else len(space)
    figure = Figure(figsize=(6.4 if columns == 1 else 3.4 * columns, 4.4), layout="constrained")
    panels = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    if flat:
        _map(figure, panels[0], records, list(space), levels.get("finetuning"))
        name, values = list(space.items())[1]
        panels[0].set(ylabel=name.replace("_", " "), yscale="log" if values.log else "linear")
    for axes, (name, values) in zip(panels, space.items(), strict=False):
        if not flat:
            _points(axes, records, name, levels)
        axes.set(xlabel=name.replace("_", " "), xscale="log" if values.log else "linear")
    if not flat:
        panels[0].set_ylabel("average accuracy (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _split(records: list[TrialRecord]) -> tuple[list[TrialRecord], list[TrialRecord], np.ndarray]:
    """Finished and failed trials, and the scores of the finished in percent."""
    done = [r for r in records if r.state == "finished"]
    scores = np.array([100 * r.metrics["average_accuracy"] for r in done])
    return done, [r for r in records if r.state == "failed"], scores


def _points(axes: Axes, records: list[TrialRecord], name: str, levels: dict[str, float]) -> None:
    done, failed, scores = _split(records)
    spread = [100 * r.metrics.get("average_accuracy/std", 0.0) for r in done]
    x = [r.values[name] for r in done]
    axes.errorbar(x, scores, spread, fmt="o", color="#542788", ecolor="#bbbbbb", label="trial, ± std over seeds")
    if failed:
        lost = [r.values[name] for r in failed]
        axes.plot(lost, [scores.min()] * len(lost), "x", color="#444444", label="failed (no score)")
    for (reference, level), style in zip(levels.items(), ("--", ":", "-."), strict=False):
        axes.axhline(100 * level, color="#b35806", ls=style, label=reference)


def _map(figure: Figure, axes: Axes, records: list[TrialRecord], names: list[str], reference: float | None) -> None:
    done, failed, scores = _split(records)
    middle = np.nan if reference is None else 100 * reference
    around = scores.min() < middle < scores.max()
    norm = TwoSlopeNorm(middle, scores.min(), scores.max()) if around else None
    x, y = ([r.values[name] for r in done] for name in names)
    style: dict[str, Any] = {"c": scores, "cmap": "PuOr_r" if around else COLORS, "norm": norm}
    points = axes.scatter(x, y, s=70, edgecolors="black", linewidths=0.6, **style)
    best = int(scores.argmax())
    axes.scatter(x[best], y[best], s=240, facecolors="none", edgecolors="black", linewidths=1.8, label="best")
    if failed:
        lost = [[r.values[name] for r in failed] for name in names]
        axes.scatter(*lost, marker="x", color="#444444", label="failed")
    bar = figure.colorbar(points, ax=axes, label="average accuracy (%)")
    if around:
        ends = (float(scores.min()), middle, float(scores.max()))
        bar.set_ticks(ends, labels=[f"{ends[0]:.1f}", f"{middle:.1f}\nfinetuning", f"{ends[2]:.1f}"])
