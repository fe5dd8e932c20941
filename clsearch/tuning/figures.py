"""Pictures, drawn without a display and without global state, so that a thread may draw them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from clsearch.tuning.spaces import Space

if TYPE_CHECKING:
    from clsearch.tuning.records import TrialRecord

COLORS = "viridis"
"""Colour-blind-safe, and ordered in grey too."""


def accuracy_matrix(record: TrialRecord) -> Figure:
    """R of a trial, mean over seeds: rows are tasks learned, columns the tasks measured."""
    matrix = np.nanmean(np.array(record.accuracy, dtype=float), axis=0)[1 : record.tasks_learned + 1]
    T = matrix.shape[1]
    figure = Figure(figsize=(1.6 + 0.62 * T, 1.3 + 0.5 * len(matrix)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix, vmin=0, vmax=1, cmap=COLORS, aspect="auto")
    for (i, j), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            color = "black" if value > 0.6 else "white"
            axes.text(j, i, f"{100 * value:.1f}", ha="center", va="center", color=color, fontsize=8)
    axes.set(
        xticks=range(T),
        xticklabels=range(1, T + 1),
        yticks=range(len(matrix)),
        yticklabels=range(1, len(matrix) + 1),
        xlabel="accuracy (%) on task",
        ylabel="after learning task",
        title="Validation accuracy, mean over seeds",
    )
    figure.colorbar(image, ax=axes, label="accuracy")
    return figure


def response(records: list[TrialRecord], space: Space, reference: float | None) -> Figure | None:
    """Average accuracy over the searched hyperparameters: a map for two, curves for one; None for other numbers.

    Diverged trials are crosses. reference: finetuning's average accuracy on the same seeds.
    """
    if len(space) not in (1, 2) or not any(r.state == "finished" for r in records):
        return None
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    done = [r for r in records if r.state == "finished"]
    failed = [r for r in records if r.state == "failed"]
    scores = np.array([100 * r.metrics["average_accuracy"] for r in done])
    names = list(space)
    x, lost = ([r.values[names[0]] for r in group] for group in (done, failed))
    axes.set_xlabel(names[0].replace("_", " "))
    if len(names) == 1:
        spread = [100 * r.metrics.get("average_accuracy/std", 0.0) for r in done]
        axes.errorbar(x, scores, spread, fmt="o", color="#3b528b", ecolor="#aaaaaa", label="trial, ± std over seeds")
        if reference is not None:
            axes.axhline(100 * reference, color="#d55e00", ls="--", label="finetuning")
        axes.set_ylabel("average accuracy (%)")
    else:
        y, lost_y = ([r.values[names[1]] for r in group] for group in (done, failed))
        points = axes.scatter(x, y, c=scores, cmap=COLORS, s=70, edgecolors="black", linewidths=0.5, label="finished")
        best = int(scores.argmax())
        axes.scatter(x[best], y[best], s=260, facecolors="none", edgecolors="#d55e00", linewidths=2, label="best")
        axes.scatter(lost, lost_y, marker="x", color="#666666", label="diverged") if lost else None
        bar = figure.colorbar(points, ax=axes, label="average accuracy (%)")
        if reference is not None and scores.min() <= 100 * reference <= scores.max():
            bar.ax.axhline(100 * reference, color="#d55e00", lw=2)
            bar.ax.text(-0.15, 100 * reference, "finetuning ", ha="right", va="center", color="#d55e00", fontsize=8)
        axes.set_ylabel(names[1].replace("_", " "))
        axes.set_yscale("log" if space[names[1]].log else "linear")
    axes.set_xscale("log" if space[names[0]].log else "linear")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    return figure
