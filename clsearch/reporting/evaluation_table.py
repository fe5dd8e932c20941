"""The table of a final evaluation for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from clsearch.common.formatting import count_of, make_table
from clsearch.records.evaluation import EvaluatedConfiguration, FinalEvaluation
from clsearch.reporting.evaluation_text import format_interval


def make_evaluation_table(final: FinalEvaluation) -> Table:
    """The choice and its references on fresh seeds: validation and test data, with intervals."""
    seeds = final.seeds
    numbers = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    table = make_table(f"Final evaluation on {count_of(len(seeds), 'fresh seed')} ({numbers}), mean (95 % interval)")
    table.add_column("configuration", no_wrap=True)
    for name in ("validation\naccuracy (%)", "test\naccuracy (%)", "test\nforgetting", "chosen minus this,\ntest"):
        table.add_column(name, justify="right", no_wrap=True)
    on = ""
    for row in final.rows:
        if row.on != on and final.reported_on != "full_sequence":
            if on:
                table.add_section()
            table.add_row(Text(describe_target(final, row), style="bold"))
        on = row.on
        label = f"chosen {row.algorithm}" if row.configuration == "chosen" else row.algorithm
        table.add_row(label, *format_row(final, row))
    return table


def describe_target(final: FinalEvaluation, row: EvaluatedConfiguration) -> str:
    """The benchmark and tasks that a row is measured on."""
    if row.on == "full_sequence":
        return f"full sequence of {row.benchmark}"
    if len(row.tasks) < final.tasks:
        return f"reported: tasks {row.tasks[0]} to {row.tasks[-1]}, fresh weights"
    return f"reported: {row.benchmark}"


def format_row(final: FinalEvaluation, row: EvaluatedConfiguration) -> list[str]:
    """The numbers of a row, or the reason why it has none."""
    if row.reason:
        return [row.reason.partition(" (")[0], "", "", ""]
    validation, test = final.intervals(row, "validation"), final.intervals(row, "test")
    difference = final.against(row, "test", "average_accuracy")
    return [
        format_interval(validation["average_accuracy"]),
        format_interval(test["average_accuracy"]),
        format_interval(test["average_forgetting"]) if "average_forgetting" in test else "–",  # a single task
        "" if difference is None else format_interval(difference, signed=True),
    ]
