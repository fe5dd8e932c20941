"""Tables that compare studies, for a terminal, a spreadsheet and a paper.

A cell is an Interval, a number or text. Metrics are fractions in the rows, and percent as text: mean ± half of the 95 %
interval (Student t over seeds).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from clsearch.common.files import write_atomically
from clsearch.common.formatting import format_number
from clsearch.common.statistics import Interval, paired_difference
from clsearch.config.plain_values import show_value
from clsearch.records.evaluation import EvaluatedConfiguration, FinalEvaluation
from clsearch.reporting.result import StudyResult

Row = dict[str, Any]


@dataclass(frozen=True)
class SearchScore:
    """The score that a search measured of its choice. Text marks other metrics than average accuracy with *."""

    metric: str
    value: float


TEST_METRICS = ("average_accuracy", "average_forgetting", "backward_transfer", "learning_accuracy")
"""Metrics on test data in a table of methods."""

HEADINGS = {"task-trainings": "task-seed trainings", "believed": "search estimate"}
"""Columns whose heading differs from their name in the CSV file."""


def make_method_rows(studies: Mapping[str, StudyResult]) -> list[Row]:
    """A row per choice and reference: metrics on the test data that the study's protocol reports on."""
    return [
        {
            "method": label,
            **{name: values.get(name) for name in TEST_METRICS},
            "task-trainings": found.cost.task_trainings if row is final.rows[0] else 0,
            "search (s)": round(found.cost.seconds) if row is final.rows[0] else 0,
            "final training (s)": round(row.seconds),
            "chosen": describe_choice(found) if row is final.rows[0] else "",
        }
        for label, found, final, row in select_reported_rows(studies)
        for values in (final.intervals(row, "test"),)
    ]


def select_reported_rows(
    studies: Mapping[str, StudyResult],
) -> list[tuple[str, StudyResult, FinalEvaluation, EvaluatedConfiguration]]:
    """(name, study, its final evaluation, row) of each choice and reference with metrics, choices first."""

    def named(label: str, row: EvaluatedConfiguration) -> str:
        if row.configuration == "chosen":
            return label
        own = [s for s in studies.values() if s.final and s.final.row(row.configuration, row.on)]
        return (
            row.configuration
            if len(own) == 1 and row.configuration not in studies
            else f"{row.configuration} ({label})"
        )

    found = [
        (named(label, row), study, study.final, row)
        for label, study in studies.items()
        if study.final is not None
        for row in study.final.rows
        if row.on == study.final.reported_on and not row.reason
    ]
    return sorted(found, key=lambda entry: entry[3].configuration != "chosen")


def make_protocol_rows(studies: Mapping[str, StudyResult]) -> list[Row]:
    """A row per study: its choice, the search's score and cost, and the score of the choice on fresh seeds."""
    rows = []
    for label, found in studies.items():
        final = found.final
        if final is None or final.reported is None or not final.optimism:
            continue
        full, first = final.row("chosen", "full_sequence"), final.optimism[0]
        rows.append(
            {
                "protocol": label,
                "believed": SearchScore(first.metric, first.believed),
                "fresh validation": first.validation,
                "reported test": final.intervals(final.reported, "test")["average_accuracy"],
                "full sequence test": None if full is None else final.intervals(full, "test")["average_accuracy"],
                "optimism, validation": first.against_validation,
                "optimism, test": first.against_test,
                "task-trainings": found.cost.task_trainings,
                "search (s)": round(found.cost.seconds),
                "chosen": describe_choice(found),
            }
        )
    return rows


def describe_choice(found: StudyResult) -> str:
    """The chosen values; the range of values that differ between tasks."""
    if found.choice is None:
        return ""
    shared = [f"{name} {show_value(value, 3)}" for name, value in found.choice.values.items()]
    for name in found.choice.per_task[0] if found.choice.per_task else ():
        acting = (
            found.choice.per_task if name == "learning_rate" else found.choice.per_task[1:]
        )  # task 1 has no penalty
        values = [task[name] for task in acting]
        shared.append(f"{name} {min(values):.3g} to {max(values):.3g}")
    return ", ".join(shared) or "as given"


def make_difference_rows(studies: Mapping[str, StudyResult], metric: str = "average_accuracy") -> list[Row]:
    """Each method minus each other on test data, paired over seeds; None if their seeds or tasks differ."""
    entries = select_reported_rows(studies)
    measured = {label: row.per_seed("test")[metric].tolist() for label, _, _, row in entries}
    on = {
        label: (final.seeds, row.benchmark, row.tasks, study.plan.config.unlearn)
        for label, study, final, row in entries
    }
    rows: dict[str, Row] = {label: {"minus": label} for label in measured}
    for first, second in product(measured, measured):
        apart = first == second or on[first] != on[second]
        rows[first][second] = None if apart else paired_difference(measured[first], measured[second])
    return list(rows.values())


def make_numeric_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows for a spreadsheet: plain numbers; an interval has columns for its mean, low and high end."""
    lines = []
    for row in rows:
        line: Row = {}
        for name, cell in row.items():
            if isinstance(cell, Interval):
                line |= {name: cell.mean, f"{name}/low": cell.low, f"{name}/high": cell.high}
            elif isinstance(cell, SearchScore):
                line |= {name: cell.value, f"{name}/metric": cell.metric}
            else:
                line[name] = cell
        lines.append(line)
    return pd.DataFrame(lines)


def make_text_frame(rows: Sequence[Row], signed: bool = False, latex: bool = False) -> pd.DataFrame:
    """Rows for people: every cell as text. signed: intervals are differences. latex: escape for LaTeX."""
    lines = [
        {format_heading(name, latex): format_cell(cell, signed, latex) for name, cell in row.items()} for row in rows
    ]
    return pd.DataFrame(lines)


def format_heading(name: str, latex: bool) -> str:
    """The heading of a column; metrics have their unit."""
    heading = HEADINGS.get(name, name)
    if name in TEST_METRICS:
        heading = name.replace("_", " ") + (" (%)" if "accuracy" in name else "")
    return escape_latex(heading) if latex else heading


def format_cell(cell: Any, signed: bool, latex: bool) -> str:
    """A cell as text; metrics are in percent."""
    match cell:
        case None:
            return "--" if latex else "–"
        case SearchScore():
            other = cell.metric != "average_accuracy"
            return format_number(cell.metric, cell.value) + (("$^*$" if latex else "*") if other else "")
        case Interval():
            mark = "+" if signed else ""
            mean, half = f"{100 * cell.mean:{mark}.2f}", 100 * (cell.high - cell.mean)
            if math.isnan(half):
                return mean
            return rf"${mean} \pm {half:.2f}$" if latex else f"{mean} ± {half:.2f}"
        case float():
            return format_cell(None, signed, latex) if math.isnan(cell) else f"{100 * cell:+.2f}"
        case int():
            return f"{cell:,}" if cell else format_cell(None, signed, latex)
    return escape_latex(str(cell)) if latex else str(cell)


def escape_latex(text: str) -> str:
    """Escape what has a meaning in LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(mark, f"\\{mark}" if mark in "_%&#{}$" else mark) for mark in text)


def write_table(folder: Path, name: str, rows: Sequence[Row], caption: str, signed: bool = False) -> None:
    """Write <name>.csv, <name>.md and <name>.tex into a folder."""
    column = "".join("l" if name in ("method", "protocol", "chosen", "minus") else "r" for name in rows[0])
    latex = make_text_frame(rows, signed, latex=True).to_latex(
        index=False, escape=False, caption=escape_latex(caption), label=f"tab:{name}", column_format=column
    )
    markdown = f"{make_text_frame(rows, signed).to_markdown(index=False, disable_numparse=True)}\n\n{caption}\n"
    for suffix, content in (("csv", make_numeric_frame(rows).to_csv(index=False)), ("md", markdown), ("tex", latex)):
        write_atomically(folder / f"{name}.{suffix}", content.encode())
