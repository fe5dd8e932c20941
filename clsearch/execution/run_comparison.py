"""Run a comparison: its studies in one Ray session, then its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clsearch.common.formatting import make_table, print_full_width, relative_path
from clsearch.data.datasets import Data, Source
from clsearch.execution.publisher import try_report
from clsearch.execution.ray_session import describe_cluster, ray_session
from clsearch.execution.ray_tasks import store_object
from clsearch.execution.run_study import open_study, run
from clsearch.planning.plan import Plan
from clsearch.ray_runtime.address import cluster_address
from clsearch.records.mirror import Mirror
from clsearch.records.resume import set_aside
from clsearch.records.study_file import COMPARISON, read_study_json
from clsearch.records.writer import provenance, write_json
from clsearch.reporting.evaluation_text import describe_openings, describe_optimism
from clsearch.reporting.file_names import COMPARISON_REPORT
from clsearch.reporting.html.report import write_comparison
from clsearch.reporting.progress import ProgressLine
from clsearch.reporting.result import StudyResult
from clsearch.reporting.tables import (
    Row,
    make_difference_rows,
    make_method_rows,
    make_protocol_rows,
    make_text_frame,
    write_table,
)
from clsearch.reporting.terminal import print_attempts, print_lines, print_rows
from clsearch.reporting.trial_text import describe_problems, explain_attempts
from clsearch.tracking.stores import mlflow_row


def execute_all(
    folder: Path, described: dict[str, Any], plans: dict[str, Plan], held: dict[Source, Data]
) -> dict[str, StudyResult]:
    """Run checked plans one after another, and write the tables to `folder`.

    Args:
        folder: The comparison's folder.
        described: Its question, kind and command.
        plans: Label -> plan.
        held: The data of each source; they are removed from it, so that only the object store keeps them.
    """
    console, results = Console(stderr=True), dict[str, StudyResult]()
    first = next(iter(plans.values()))
    if first.options.fresh:
        set_aside(folder)
    with ray_session(first, partial(console.print, markup=False)):
        if cluster_address(first):
            ProgressLine(console, 0, quiet=first.options.quiet).print_line(describe_cluster())
        data = {source: store_object(held.pop(source)) for source in list(held)}
        for number, (label, plan) in enumerate(plans.items(), start=1):
            line = ProgressLine(console, plan.trials, plan.objectives[0], plan.options.quiet)
            line.print_line(f"study {number}/{len(plans)}: {label}")
            with line.live(), open_study(plan):
                results[label] = run(plan, data[plan.config.source], line)
            if results[label].interrupted:
                break
    show(folder, described, plans, results)
    Mirror(folder, first.options.mirror, partial(console.print, markup=False)).end()
    return results


def show(
    folder: Path, described: dict[str, Any], plans: Mapping[str, Plan], results: Mapping[str, StudyResult]
) -> None:
    """Write and print the tables, and print the places of all outputs."""
    console, first, kind = Console(), next(iter(plans.values())), described["kind"]
    tables = {kind: make_protocol_rows(results) if kind == "protocols" else make_method_rows(results)}
    if kind == "methods":
        tables["differences"] = make_difference_rows(results)
    captions = captions_of(first, kind)
    write_json(
        folder / COMPARISON,
        {
            **described,
            "studies": {label: plan.options.name for label, plan in plans.items()},
            "ids": {label: study["id"] for label, plan in plans.items() if (study := read_study_json(plan.folder))},
            "seeds": {"selecting": list(first.seeds), "reporting": list(first.report_seeds)},
            **provenance(),
        },
    )
    for label, result in results.items():
        if result.decision is not None:
            console.print(f"\n{label}", markup=False, highlight=False)
            print_attempts(console, result.decision)
            print_lines(console, *explain_attempts(result.plan, result.decision))
    for name, rows in tables.items():
        if rows:
            write_table(folder, name, rows, captions[name], signed=name == "differences")
            console.print()
            print_full_width(console, rich_table(rows, signed=name == "differences"), wrapped=True)
            print_lines(
                console,
                captions[name],
                *(f"{row[next(iter(row))]}: {row['chosen']}" for row in rows if row.get("chosen")),
            )
    for label, result in results.items():
        lines = describe_problems(result)
        if result.final is not None:
            lines += [*(describe_optimism(result.final) if kind == "methods" else []), *describe_openings(result.final)]
        print_lines(console, *(f"{label}: {line}" for line in lines))
    folders = [result.plan.folder for result in results.values()]
    page = try_report(
        partial(write_comparison, folders, folder / COMPARISON_REPORT), folders, partial(print_lines, console)
    )
    written = ", ".join(f"{name}.csv|md|tex" for name, rows in tables.items() if rows)
    found = [("Tables", f"{relative_path(folder)}/ ({written})")]
    found += [("Report", relative_path(page))] if page is not None else []
    found += [
        ("Study", f"{label}: {relative_path(result.plan.folder)}/report.html") for label, result in results.items()
    ]
    found += [mlflow_row(first, any(result.pages for result in results.values()))]
    found += [(name, f"{label}: {page}") for label, result in results.items() for name, page in result.pages.items()]
    console.print()
    print_rows(console, found)


def captions_of(plan: Plan, kind: str) -> dict[str, str]:
    """Make the caption of each table."""
    seeds = f"{len(plan.report_seeds)} fresh seeds, mean ± half of the 95 % interval over seeds (Student t), in percent"
    if kind == "protocols":
        return {
            kind: f"{plan.algorithm} on {plan.config.benchmark}, {plan.config.tasks} tasks: average accuracy, {seeds}. "
            f"*: another metric, the search's first objective or, in continual, "
            f"learning accuracy. Optimism: the search's score minus the same metric on "
            f"fresh validation data, and on the reported test "
            f"data. Cost and seconds: the search only."
        }
    if plan.report is not None:
        where = plan.report.benchmark
    elif len(plan.reported) < plan.config.tasks:
        where = f"tasks {plan.reported[0]} to {plan.reported[-1]} of {plan.config.benchmark}, fresh weights"
    else:
        where = f"{plan.config.benchmark}, {plan.config.tasks} tasks"
    return {
        kind: f"Test data of {where}: {seeds}. Protocol {plan.protocol.value}; searched on {len(plan.seeds)} other "
        f"seeds and validation data.",
        "differences": f"Average accuracy on test data of {where}, row minus column: {seeds}, paired over seeds, each "
        f"pair separately.",
    }


def rich_table(rows: Sequence[Row], signed: bool) -> Table:
    """Make a table for the terminal, without the column that is too wide for it."""
    table = make_table()
    frame = make_text_frame(rows, signed)
    frame = frame.drop(columns="chosen", errors="ignore")
    for number, name in enumerate(frame.columns):  # headings can wrap, cells cannot
        width = max(map(len, [*frame[name], *name.split()]))
        table.add_column(name, justify="right" if number else "left", width=width)
    for cells in frame.itertuples(index=False):
        table.add_row(*cells)
    return table
