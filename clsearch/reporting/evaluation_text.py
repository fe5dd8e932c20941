"""What a study prints of its final evaluation."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from clsearch.common.formatting import humanize, make_table, points_suffix, to_display_units, unit_suffix
from clsearch.common.statistics import Interval
from clsearch.config.sections import FOLDER
from clsearch.data.datasets import SOURCES
from clsearch.records.evaluation import Final, Measured


def final_table(final: Final) -> Table:
    """The choice and its references on fresh seeds: validation and test, with intervals."""
    seeds = final.seeds
    span = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    table = make_table(
        f"Final evaluation on {len(seeds)} fresh seed{'s' * (len(seeds) > 1)} ({span}), mean (95 % interval)"
    )
    table.add_column("configuration", no_wrap=True)
    for name in ("validation\naccuracy (%)", "test\naccuracy (%)", "test\nforgetting", "chosen minus this,\ntest"):
        table.add_column(name, justify="right", no_wrap=True)
    on = ""
    for row in final.rows:
        if row.on != on and final.reported_on != "full_sequence":
            if on:
                table.add_section()
            table.add_row(Text(described(final, row), style="bold"))
        on = row.on
        table.add_row(f"chosen {row.algorithm}" if row.configuration == "chosen" else row.algorithm, *cells(final, row))
    return table


def described(final: Final, row: Measured) -> str:
    """What a row is measured on."""
    if row.on == "full_sequence":
        return f"full sequence of {row.benchmark}"
    if len(row.tasks) < final.tasks:
        return f"reported: tasks {row.tasks[0]} to {row.tasks[-1]}, fresh weights"
    return f"reported: {row.benchmark}"


def cells(final: Final, row: Measured) -> list[str]:
    """The numbers of a row."""
    if row.reason:
        return [row.reason.partition(" (")[0], "", "", ""]
    validation, test = final.intervals(row, "validation"), final.intervals(row, "test")
    difference = final.against(row, "test", "average_accuracy")
    return [
        shown(validation["average_accuracy"]),
        shown(test["average_accuracy"]),
        shown(test["average_forgetting"]) if "average_forgetting" in test else "–",  # one task is left
        "" if difference is None else shown(difference, signed=True),
    ]


def shown(found: Interval, signed: bool = False, metric: str = "average_accuracy") -> str:
    """A mean with its interval, in percent where the metric is a share."""
    mean, low, high = (
        f"{to_display_units(metric, n):{'+' if signed else ''}.2f}" for n in (found.mean, found.low, found.high)
    )
    return mean if found.low != found.low else f"{mean} ({low} to {high})"


def optimism_of(final: Final) -> list[str]:
    """How much better the search thought of its choice than it is: a sentence for each objective."""
    lines = []
    for found in final.optimism:
        metric, seeds = found.metric, len(final.seeds)
        where = "" if final.reported_on == "full_sequence" else " of what is reported"
        searched, every = len(final.searched_tasks), final.tasks
        of = f" of tasks 1 to {searched}" if searched < every else ""
        test = ""
        if found.test is not None:
            against = gain(metric, found.against_test)
            test = f", and {shown(found.test, metric=metric)} on test data{where}, {against} there"
        lines.append(
            f"Optimism: the search believed "
            f"{to_display_units(metric, found.believed):.2f}{unit_suffix(metric)} {humanize(metric)}{of}; "
            f"on {seeds} fresh seed{'s' * (seeds > 1)} the same configuration has "
            f"{shown(found.validation, metric=metric)} on validation data, {gain(metric, found.against_validation)} "
            f"of optimism{test}."
        )
    return lines


def gain(metric: str, value: float) -> str:
    """A difference of a metric."""
    return f"{to_display_units(metric, value):+.2f}{points_suffix(metric)}"


def few_seeds(final: Final) -> list[str]:
    """What is to be known of intervals that may leave what is possible."""
    if len(final.seeds) != 2:
        return []
    return ["Two seeds: Student's t with one degree of freedom is 12.7, so these intervals say little; more seeds do."]


def opened_of(final: Final) -> list[str]:
    """How often test data was opened. A user's own images are called by where they lie, before their digest."""
    folders = {row.benchmark for row in final.rows if row.benchmark.startswith(FOLDER)}
    own = f"{', '.join(sorted(folders))}, " if folders else ""
    named = [
        (opening, opening.data if opening.data in SOURCES else f"{own}{opening.data}") for opening in final.openings
    ]
    return [
        f"Test data of {name} was opened once for this, after the choice; in this results folder it had been opened "
        f"{opening.before} time{'s' * (opening.before != 1)} before."
        for opening, name in named
    ]
