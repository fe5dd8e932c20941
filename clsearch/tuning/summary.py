"""What a study prints at its end."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from clsearch.core.benchmarks import classes_of
from clsearch.core.config import TrialConfig
from clsearch.tuning.display import near, without_password
from clsearch.tuning.plan import Plan
from clsearch.tuning.records import TrialRecord
from clsearch.tuning.selection import Ranking, against, rerun_command
from clsearch.tuning.tracking import default_store

SHOWN = 5


def show(
    console: Console,
    plan: Plan,
    ranking: Ranking,
    references: list[TrialRecord],
    records: list[TrialRecord],
    uri: str,
) -> None:
    """Print the answer, the table behind it, and where everything is."""
    console.print()
    best = ranking.best
    failed = [r for r in records if r.state == "failed"]
    if best is None:
        console.print("[bold]No trial finished.[/bold]")
    else:
        values = ", ".join(f"{name} = {value:.4g}" for name, value in best.values.items())
        console.print(f"[bold]Best configuration[/bold] (trial {best.number}): {values or 'as given'}")
        whole(console, top_table(plan, ranking, references))
        console.print(reading(plan, ranking, references), highlight=False, markup=False)
        whole(console, matrix_table(best))
        if classes := task_classes(plan.config):
            console.print("\n".join(classes), highlight=False, markup=False)
    unfinished = plan.trials - sum(r.state in ("finished", "failed") for r in records)
    if unfinished:
        console.print(f"[bold]Interrupted[/bold]: {unfinished} of {plan.trials} trials were not finished.")
    if failed:
        console.print(
            f"{len(failed)} of {len(records)} trials failed; the first: {failed[0].reason}",
            highlight=False,
            markup=False,
        )
    for reference in references:
        if reference.state != "finished":
            lost = ", so there is no intransigence" if reference.algorithm == "joint" else ""
            said = f"Reference {reference.algorithm} {reference.state}: {reference.reason}{lost}."
            console.print(said, highlight=False, markup=False)
    where(console, plan, best, uri)


def task_classes(config: TrialConfig) -> list[str]:
    """What each task's classes are, where they have names of the user's and are the same for all seeds."""
    if config.source.name != "folder" or config.class_order == "shuffled":
        return []
    names = config.source.classes
    tasks = ((t, [names[c] for c in classes_of(config, t, 0)]) for t in range(1, config.tasks + 1))
    return [f"task {t}: {', '.join(own[:SHOWN])}{', ...' if len(own) > SHOWN else ''}" for t, own in tasks]


def top_table(plan: Plan, ranking: Ranking, references: list[TrialRecord]) -> Table:
    """The best trials and the references."""
    M = len(plan.seeds)
    table = Table(
        title=f"Validation, mean ± standard deviation over {M} seed{'s' * (M > 1)}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("trial", no_wrap=True)
    for name in plan.space:
        table.add_column(name.replace("_", "\n", 1).replace("_", " "), justify="right", no_wrap=True)
    table.add_column("average\naccuracy (%)", justify="right", no_wrap=True)
    table.add_column("average\nforgetting", justify="right", no_wrap=True)
    joint = any("intransigence" in record.metrics for record in references + ranking.trials)
    if joint:
        table.add_column("intran-\nsigence", justify="right", no_wrap=True)
    table.add_column("time\n(s)", justify="right", no_wrap=True)
    table.add_column("like\nthe best", no_wrap=True)
    for record in ranking.trials[:SHOWN]:
        mark = "best" if record is ranking.best else ("yes" if record.label in ranking.close else "")
        table.add_row(
            f"#{record.number}",
            *(f"{record.values[name]:.4g}" for name in plan.space),
            *numbers(record, joint),
            mark,
        )
    table.add_section()
    for record in references:
        if record.state == "finished":
            values = (f"{record.values[name]:.4g}" if name in record.values else "–" for name in plan.space)
            table.add_row(record.algorithm, *values, *numbers(record, joint), "")
    return table


def numbers(record: TrialRecord, joint: bool) -> list[str]:
    """The cells of a row that are measured. joint: whether intransigence is among them."""
    names = ("average_accuracy", "average_forgetting", *(("intransigence",) if joint else ()))
    return [*(spread(record, name) for name in names), f"{record.seconds:.1f}"]


def spread(record: TrialRecord, name: str) -> str:
    """A metric in percent with its standard deviation."""
    mean, std = record.metrics.get(name), record.metrics.get(f"{name}/std")
    if mean is None:
        return "–"
    return f"{100 * mean:.2f}" if std is None else f"{100 * mean:.2f} ± {100 * std:.2f}"


def reading(plan: Plan, ranking: Ranking, references: list[TrialRecord]) -> str:
    """How to read the table."""
    lines = []
    if len(plan.seeds) == 1:
        lines.append("One seed has no interval: no trial can be told from the best.")
    elif len(ranking.trials) > 1:
        others = len(ranking.close) - 1
        lines.append(
            f"'yes': the paired 95 % interval of the difference to the best (Student t over seeds) contains 0; "
            f"{others} of {len(ranking.trials) - 1} other trials cannot be told from it."
        )
    for reference in references:
        if ranking.best is not None and reference.state == "finished":
            d = against(ranking.best, reference)
            interval = f", 95 % interval {100 * d.low:+.2f} to {100 * d.high:+.2f}" if d.low == d.low else ""
            lines.append(f"Against {reference.algorithm}: {100 * d.mean:+.2f} points{interval}.")
    lines.append("The best was chosen on these same numbers, so its own score is optimistic.")
    return "\n".join(lines)


def matrix_table(best: TrialRecord) -> Table:
    """R of the best configuration, mean over seeds, in percent."""
    matrix = np.array(best.accuracy, dtype=float).mean(axis=0)
    title = "Accuracy (%) of the best, mean over seeds"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("after task", justify="right")
    for j in range(1, matrix.shape[1] + 1):
        table.add_column(f"task {j}" if j == 1 else str(j), justify="right", no_wrap=True)
    for i, row in enumerate(matrix[1:], start=1):
        cells = [f"{100 * v:.1f}" if np.isfinite(v) else "" for v in row]
        table.add_row(str(i), *(c if j < i else f"[dim]{c}[/dim]" for j, c in enumerate(cells)))
    return table


def where(console: Console, plan: Plan, best: TrialRecord | None, uri: str) -> None:
    """The paths of what was written, and the commands that go on from here."""
    folder = near(plan.folder)
    rows = [("Record", f"{folder}/ (study.json, trials.csv, references.csv, best.json, trials/)")]
    if (plan.folder / "response.png").exists():
        rows.append(("Picture", f"{folder}/response.png"))
    if uri.startswith("sqlite:"):
        store = f"sqlite:///{near(plan.folder.parent)}/mlflow.db" if uri == default_store(plan) else uri
        words = [near(Path(sys.executable)), "-m", "mlflow", "server", "--backend-store-uri", store]
        words += ["--host", "127.0.0.1", "--port", "5000"]
        rows.append(("MLflow", f"MLFLOW_DISABLE_TELEMETRY=true {shlex.join(words)}   then open http://127.0.0.1:5000"))
    else:
        rows.append(("MLflow", f"{without_password(uri)}, experiment {plan.options.name}"))
    command = rerun_command(plan, best) if best is not None else None
    if command:
        rows.append(("Again", command))
    console.print()
    for name, value in rows:
        console.print(f"{name:<8} {value}", highlight=False, markup=False, soft_wrap=True)


def whole(console: Console, table: Table) -> None:
    """Print a table with no cell cut off, beyond the console's width if need be."""
    needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
    width = console.width
    console.width = max(width, needed)
    console.print(table)
    console.width = width
