"""Tables of a search for the terminal: the best trials, the accuracy matrix, the attempts of `continual`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from clsearch.common.formatting import count_of, format_number, humanize, label_with_unit, make_table
from clsearch.config.plain_values import show_value
from clsearch.records.attempts import RATE_PHASE, Attempt, Decision
from clsearch.records.ranking import Ranking
from clsearch.records.trials import TrialRecord
from clsearch.reporting.trial_names import short_origin

TABLE_ROWS, MAX_FRONT_ROWS = 5, 12
"""Trials in the table; with a Pareto front, all of the front up to a maximum."""


def make_trial_table(ranking: Ranking, references: Sequence[TrialRecord], searched: Sequence[str]) -> Table:
    """The best trials and the references. searched: names of the searched hyperparameters."""
    shown = ranking.trials[: max(TABLE_ROWS, min(len(ranking.front), MAX_FRONT_ROWS))]
    finished = [record for record in references if record.state == "finished"]
    seeds, metrics = {len(record.seeds) for record in (*shown, *finished)}, select_metrics(ranking, references)
    over = count_of(len(ranking.trials[0].seeds), "seed") if len(seeds) == 1 else "seeds"
    table = make_table(f"Validation, mean ± standard deviation over {over}")
    table.add_column("trial", no_wrap=True)
    if len(seeds) > 1:
        table.add_column("seeds", justify="right", no_wrap=True)
    for name in searched:
        table.add_column(name.replace("_", "\n", 1).replace("_", " "), justify="right", no_wrap=True)
    for name in metrics:
        table.add_column(_break_heading(name), justify="right", no_wrap=True)
    table.add_column("time\n(s)", justify="right", no_wrap=True)
    table.add_column("not shown\nworse", no_wrap=True)
    for record in shown:
        label = f"#{record.number}" + (" front" if record.label in ranking.front else "")
        label += f" {origin}" if (origin := short_origin(record.origin)) else ""
        count = [str(len(record.seeds))] * (len(seeds) > 1)
        table.add_row(label, *count, *_format_row(record, searched, metrics), _mark(record, ranking))
    table.add_section()
    for record in finished:
        count = [str(len(record.seeds))] * (len(seeds) > 1)
        table.add_row(record.algorithm, *count, *_format_row(record, searched, metrics), "")
    return table


def select_metrics(ranking: Ranking, references: Sequence[TrialRecord]) -> list[str]:
    """The metrics in the table: the objectives, accuracy, forgetting, and intransigence if it was measured."""
    names = [*ranking.objectives, "average_accuracy", "average_forgetting"]
    if any("intransigence" in record.metrics for record in (*references, *ranking.trials)):
        names.append("intransigence")
    return list(dict.fromkeys(names))


def _break_heading(metric: str) -> str:
    """A metric as the heading of a narrow column."""
    if metric == "intransigence":
        return "intran-\nsigence"
    has_unit = metric.startswith("unlearning/") or "accuracy" in metric
    return (label_with_unit(metric) if has_unit else humanize(metric)).replace(" ", "\n", 1)


def _format_row(record: TrialRecord, searched: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """The cells of a trial or reference: hyperparameters, metrics, seconds."""
    values = [show_value(record.values[name], 4) if name in record.values else "–" for name in searched]
    return [*values, *(format_spread(record, name) for name in metrics), f"{record.seconds:.1f}"]


def format_spread(record: TrialRecord, name: str) -> str:
    """A metric ± its standard deviation over seeds, in display units; a dash if it was not measured."""
    mean, std = record.metrics.get(name), record.metrics.get(f"{name}/std")
    if mean is None:
        return "–"
    return format_number(name, mean) + ("" if std is None else f" ± {format_number(name, std)}")


def _mark(record: TrialRecord, ranking: Ranking) -> str:
    """The last cell of a trial: whether it is the choice, or not shown to be worse than it."""
    if record.label in ranking.infeasible:
        return "infeasible"
    if record is ranking.best:
        return "knee" if ranking.front else "best"
    return "yes" if record.label in ranking.close else ""


def make_attempt_table(decision: Decision) -> Table:
    """Every attempt of the continual protocol: a row per task and phase."""
    table = make_table("Chosen task by task, on the current task's validation data")
    for name in ("task", "tried", "accuracy (%), in that order", "bar", "kept"):
        table.add_column(name, justify="left" if name in ("tried", "kept") else "right")
    for task, phase in dict.fromkeys((a.task, a.phase) for a in decision.attempts):
        attempts = [a for a in decision.attempts if (a.task, a.phase) == (task, phase)]
        table.add_row(str(task) if phase == RATE_PHASE else "", *_format_attempts(attempts, phase))
    return table


def _format_attempts(attempts: Sequence[Attempt], phase: str) -> list[str]:
    """The cells of the attempts of one task and phase: values tried, their accuracies, the bar, the values kept."""
    names = [name for name in attempts[0].values if phase == RATE_PHASE or name != RATE_PHASE]
    tried = "; ".join(f"{name} {' '.join(show_value(a.values[name], 4) for a in attempts)}" for name in names)
    scores = " ".join(f"{100 * a.accuracy:.1f}" if a.accuracies else "diverged" for a in attempts)
    bar = "" if attempts[0].bar is None else f"{100 * attempts[0].bar:.1f}"
    kept = ", ".join(show_value(a.values[name], 4) for a in attempts if a.kept for name in names)
    return [tried or "as configured", scores, bar, kept]


def make_matrix_table(best: TrialRecord) -> Table:
    """The accuracy matrix R of the best trial, mean over seeds, in percent."""
    matrix = np.array(best.accuracy, dtype=float).mean(axis=0)
    without = "; without unlearned tasks" if best.unlearning else ""
    table = make_table(f"Accuracy (%) of the best, mean over seeds{without}")
    table.add_column("after task", justify="right")
    for j in range(1, matrix.shape[1] + 1):
        table.add_column(f"task {j}" if j == 1 else str(j), justify="right", no_wrap=True)
    for i, row in enumerate(matrix[1:], start=1):
        cells = [f"{100 * value:.1f}" if np.isfinite(value) else "" for value in row]
        table.add_row(str(i), *(cell if j < i else Text(cell, style="dim") for j, cell in enumerate(cells)))
    return table
