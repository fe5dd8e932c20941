"""What a study prints at its end."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from clsearch.common.formatting import (
    humanize,
    label_with_unit,
    make_table,
    points_suffix,
    print_full_width,
    relative_path,
    to_display_units,
)
from clsearch.config.trial import TrialConfig
from clsearch.config.unlearning import requests_of
from clsearch.planning.objectives import sign
from clsearch.planning.plan import Plan
from clsearch.records.attempts import RATE, SCORE, SHARE, Decision
from clsearch.records.early_stopping import pruned_of, saving_of
from clsearch.records.ranking import Ranking, against, rerun_command
from clsearch.records.trials import TrialRecord
from clsearch.reporting.evaluation_text import few_seeds, final_table, opened_of, optimism_of
from clsearch.reporting.result import StudyResult
from clsearch.reporting.unlearning_text import retraining_of, trade_off_reading, unlearning_reading
from clsearch.tasks.benchmark import classes_of

SHOWN, MOST = 5, 12
"""Trials in the table; of a Pareto front, at most."""
HELD = ("distillation_temperature", "penalty_p_norm")
"""Hyperparameters that the continual protocol leaves alone."""


def show(console: Console, found: StudyResult, mlflow: tuple[str, str]) -> None:
    """Print the answer, the tables behind it, and where everything is. mlflow: the row that says where its runs are."""
    plan, ranking = found.plan, found.ranking
    console.print()
    if found.decision is not None:
        print_full_width(console, decision_table(found.decision))
        say(console, *decision_reading(plan, found.decision))
    elif ranking.best is None:
        console.print("[bold]No trial finished.[/bold]")
    else:
        tell_best(console, ranking, found.references, list(plan.space))
        say(console, *task_classes(plan.config))
    if found.final is not None:
        print_full_width(console, final_table(found.final))
        say(console, *few_seeds(found.final), *optimism_of(found.final), *opened_of(found.final))
    pruned = pruned_of(plan, found.records)
    say(
        console,
        str(found.cost),
        *retraining_of(plan.config, len(plan.seeds)),
        *([] if pruned is None else saving_of(pruned, plan.options.pruner.value, len(found.records))),
        *troubles(found),
    )
    where(console, found, mlflow)


def tell_best(console: Console, ranking: Ranking, references: list[TrialRecord], searched: Sequence[str]) -> None:
    """Print the best trials beside the references, and the best one's matrix. searched: names of hyperparameters."""
    best = ranking.trials[0]
    values = ", ".join(f"{name} = {value:.4g}" for name, value in best.values.items())
    kind = "Knee of the Pareto front" if ranking.front else "Best configuration" if searched else "Configuration"
    console.print(f"[bold]{kind}[/bold] (trial {best.number}): {values or 'as given'}")
    print_full_width(console, top_table(ranking, references, searched))
    say(console, *reading(ranking, references))
    print_full_width(console, matrix_table(best))
    if best.unlearning:
        requests = requests_of(tuple(best.settings["unlearn"]))
        say(console, *unlearning_reading(best, requests, references), *trade_off_reading(ranking))


def say(console: Console, *lines: str) -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(line, highlight=False, markup=False)


def troubles(found: StudyResult) -> list[str]:
    """What did not go as planned."""
    plan, records, lines = found.plan, found.records, []
    unfinished = plan.trials - sum(r.ended for r in records)
    if found.decision is None and unfinished:
        lines.append(f"Interrupted: {unfinished} of {plan.trials} trials were not finished.")
    elif found.interrupted and (found.choice is None or plan.options.final):
        missing = "nothing was chosen" if found.choice is None else "there is no final evaluation"
        lines.append(f"Interrupted: {missing}.")
    if failed := [r for r in records if r.state == "failed"]:
        lines.append(f"{len(failed)} of {len(records)} trials failed; the first: {failed[0].reason}")
    for reference in found.references:
        if reference.state != "finished":
            lost = ", so there is no intransigence" if reference.algorithm == "joint" else ""
            lines.append(f"Reference {reference.algorithm} {reference.state}: {reference.reason}{lost}.")
    if found.unsealed:
        lines.append(f"No final evaluation: {found.unsealed}")
    return lines


def task_classes(config: TrialConfig) -> list[str]:
    """What each task's classes are, where they have names of the user's and are the same for all seeds."""
    if config.source.name != "folder" or config.class_order == "shuffled":
        return []
    names = config.source.classes
    tasks = ((t, [names[c] for c in classes_of(config, t, 0)]) for t in range(1, config.tasks + 1))
    return [f"task {t}: {', '.join(own[:SHOWN])}{', ...' if len(own) > SHOWN else ''}" for t, own in tasks]


def top_table(ranking: Ranking, references: list[TrialRecord], searched: Sequence[str]) -> Table:
    """The best trials and the references."""
    M = len(ranking.trials[0].seeds)
    table = make_table(f"Validation, mean ± standard deviation over {M} seed{'s' * (M > 1)}")
    table.add_column("trial", no_wrap=True)
    for name in searched:
        table.add_column(name.replace("_", "\n", 1).replace("_", " "), justify="right", no_wrap=True)
    names = columns_of(ranking, references)
    for name in names:
        first, _, rest = (
            label_with_unit(name) if name.startswith("unlearning/") else humanize(name) + " (%)" * ("accuracy" in name)
        ).partition(" ")
        table.add_column(f"{first}\n{rest}" if rest else "intran-\nsigence", justify="right", no_wrap=True)
    table.add_column("time\n(s)", justify="right", no_wrap=True)
    table.add_column("like\nthe best", no_wrap=True)
    for record in ranking.trials[: max(SHOWN, min(len(ranking.front), MOST))]:
        mark = "knee" if ranking.front else "best"
        if record is not ranking.best:
            mark = "yes" if record.label in ranking.close else ""
        values = [f"{record.values[name]:.4g}" for name in searched]
        front = " front" if record.label in ranking.front else ""
        table.add_row(
            f"#{record.number}{front}", *values, *(spread(record, n) for n in names), f"{record.seconds:.1f}", mark
        )
    table.add_section()
    for record in references:
        if record.state == "finished":
            values = [f"{record.values[name]:.4g}" if name in record.values else "–" for name in searched]
            table.add_row(
                record.algorithm, *values, *(spread(record, name) for name in names), f"{record.seconds:.1f}", ""
            )
    return table


def columns_of(ranking: Ranking, references: list[TrialRecord]) -> list[str]:
    """The metrics of the table: the objectives, accuracy and forgetting, intransigence where it is measured."""
    names = [*ranking.objectives, "average_accuracy", "average_forgetting"]
    if any("intransigence" in record.metrics for record in references + ranking.trials):
        names.append("intransigence")
    return list(dict.fromkeys(names))


def spread(record: TrialRecord, name: str) -> str:
    """A metric with its standard deviation, in percent where it is a share."""
    mean, std = record.metrics.get(name), record.metrics.get(f"{name}/std")
    if mean is None:
        return "–"
    return f"{to_display_units(name, mean):.2f}" + ("" if std is None else f" ± {to_display_units(name, std):.2f}")


def reading(ranking: Ranking, references: list[TrialRecord]) -> list[str]:
    """How to read the table."""
    lines, best, name = [], ranking.trials[0], ranking.objectives[0]
    if ranking.front:
        lines += front_reading(ranking)
    if len(best.seeds) == 1:
        lines.append(
            "One seed has no interval" + (": no trial can be told from the best." if len(ranking.trials) > 1 else ".")
        )
    elif len(ranking.trials) > 1:
        others, every = len(ranking.close) - 1, " in every objective" if ranking.front else ""
        lines.append(
            f"'yes': the paired 95 % interval of the difference to the best (Student t over seeds) contains 0{every}; "
            f"{others} of {len(ranking.trials) - 1} other trials cannot be told from it."
        )
    for reference in references:
        if reference.state == "finished":
            d = against(best, reference, name)
            ends = [f"{to_display_units(name, end):+.2f}" for end in (d.low, d.high)]
            interval = f", 95 % interval {ends[0]} to {ends[1]}" if d.low == d.low else ""
            of = "" if name == "average_accuracy" else f" of {humanize(name)}"
            lines.append(
                f"Against {reference.algorithm}: "
                f"{to_display_units(name, d.mean):+.2f}{points_suffix(name)}{of}{interval}."
            )
    if len(ranking.trials) > 1:
        lines.append("The best was chosen on these same numbers, so its own score is optimistic.")
    return lines


def front_reading(ranking: Ranking) -> list[str]:
    """What the knee is, and what it gives up against the ends of the front."""
    knee, on_front = ranking.trials[0], [r for r in ranking.trials if r.label in ranking.front]
    names = [humanize(name) for name in ranking.objectives]
    lines = [
        f"{len(on_front)} of {len(ranking.trials)} trials are on the Pareto front of {' and '.join(names)}: none other "
        f"is as good in all and better in one. The knee has the largest sum of objectives, each scaled from 0 (worst "
        f"on the front) to 1 (best)"
        + (": the point farthest beyond the line between the front's ends." if len(names) == 2 else ".")
    ]
    for name, shown in zip(ranking.objectives, names, strict=True):
        end = max(on_front, key=lambda record: sign(name) * record.metrics[name])
        if end is not knee:
            given = to_display_units(name, sign(name) * (end.metrics[name] - knee.metrics[name]))
            lines.append(
                f"The best {shown} on the front is trial {end.number}'s, {given:.2f}{points_suffix(name)} better."
            )
    return [*lines, "Several objectives: no trial is stopped early."]


def decision_table(decision: Decision) -> Table:
    """Every attempt of the continual protocol: a row per task and phase."""
    table = make_table("Chosen task by task, on the current task's validation data")
    for name in ("task", "tried", "accuracy (%), in that order", "bar", "kept"):
        table.add_column(name, justify="left" if name in ("tried", "kept") else "right")
    for task, phase in dict.fromkeys((a.task, a.phase) for a in decision.attempts):
        own = [a for a in decision.attempts if (a.task, a.phase) == (task, phase)]
        names = [name for name in own[0].values if phase == RATE or name != RATE]
        tried = "; ".join(f"{name} {' '.join(f'{a.values[name]:.4g}' for a in own)}" for name in names)
        scores = " ".join(f"{100 * a.accuracy:.1f}" if a.accuracies else "diverged" for a in own)
        bar = "" if own[0].bar is None else f"{100 * own[0].bar:.1f}"
        kept = ", ".join(f"{a.values[name]:.4g}" for a in own if a.kept for name in names)
        table.add_row(str(task) if phase == RATE else "", tried or "as configured", scores, bar, kept)
    return table


def decision_reading(plan: Plan, decision: Decision) -> list[str]:
    """How to read the table."""
    if decision.choice is None:
        return [f"Nothing was chosen: {decision.reason}."]
    held = {name: value for name, value in plan.config.flat().items() if name in HELD}
    fixed = "".join(f" {name} stayed at {value:g}." for name, value in held.items())
    score = decision.choice.scores[SCORE]
    return [
        f"bar: {SHARE:g} of the best accuracy of plain finetuning on the task; the first that reaches it is "
        f"kept, or the last.{fixed}",
        f"Mean accuracy on each task right after learning it: {100 * score:.2f} %. Of earlier tasks the protocol sees "
        f"nothing.",
    ]


def matrix_table(best: TrialRecord) -> Table:
    """R of the best configuration, mean over seeds, in percent."""
    matrix = np.array(best.accuracy, dtype=float).mean(axis=0)
    title = "Accuracy (%) of the best, mean over seeds" + ("; not of unlearned tasks" if best.unlearning else "")
    table = make_table(title)
    table.add_column("after task", justify="right")
    for j in range(1, matrix.shape[1] + 1):
        table.add_column(f"task {j}" if j == 1 else str(j), justify="right", no_wrap=True)
    for i, row in enumerate(matrix[1:], start=1):
        cells = [f"{100 * v:.1f}" if np.isfinite(v) else "" for v in row]
        table.add_row(str(i), *(c if j < i else f"[dim]{c}[/dim]" for j, c in enumerate(cells)))
    return table


def where(console: Console, found: StudyResult, mlflow: tuple[str, str]) -> None:
    """The paths of what was written, and the commands that go on from here."""
    plan, best = found.plan, found.best
    folder = relative_path(plan.folder)
    search = "attempts.csv" if found.decision is not None else "trials.csv, references.csv, trials/"
    more = ", front.csv" * bool(found.ranking.front) + ", final.json, final.csv" * (found.final is not None)
    rows = [("Record", f"{folder}/ (study.json, {search}, best.json{more})")]
    rows += [("Report", f"{folder}/report.html")] * (plan.folder / "report.html").exists()
    rows += [("Picture", f"{folder}/{name}") for name in ("response.png", "front.png") if (plan.folder / name).exists()]
    rows += [mlflow, *found.pages.items()]
    command = rerun_command(plan, best) if best is not None else None
    if command:
        rows.append(("Again", command))
    if found.interrupted:
        rows.append(("Go on", shlex.join(plan.command) if plan.command else "run the same study again"))
    console.print()
    places(console, rows)


def places(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Print paths, addresses and commands, unbroken."""
    for name, value in rows:
        console.print(f"{name:<8} {value}", highlight=False, markup=False, soft_wrap=True)
