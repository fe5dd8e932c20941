"""Format names, metrics, times, paths and tables for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clsearch.common.redaction import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

DISTANCE = "unlearning/distance"
"""Prefix of the metrics that are distances; all others are fractions."""

METRIC_LABELS = {DISTANCE: "distance to retraining", "unlearning/gap_to_chance": "gap to chance on unlearned tasks"}
"""Metrics whose text differs from their name."""


def humanize(name: str) -> str:
    """A metric or hyperparameter as a sentence names it: `average_accuracy` -> `average accuracy`."""
    return METRIC_LABELS.get(name, name.replace("_", " "))


def to_display_units(name: str, value: float) -> float:
    """A fraction in percent; a distance as it is."""
    return value if name.startswith(DISTANCE) else 100 * value


def unit_suffix(name: str) -> str:
    """The unit after a metric: ` %`, or nothing for a distance."""
    return "" if name.startswith(DISTANCE) else " %"


def points_suffix(name: str) -> str:
    """The unit after a difference of a metric: ` points`, or nothing for a distance."""
    return " points" if unit_suffix(name) else ""


def label_with_unit(name: str) -> str:
    """A metric with its unit, for an axis or a column."""
    return humanize(name) + (" (%)" if unit_suffix(name) else "")


def format_number(name: str, value: float, signed: bool = False) -> str:
    """A metric in display units with two decimals, without its unit."""
    return f"{to_display_units(name, value):{'+' if signed else ''}.2f}"


def format_metric(name: str, value: float) -> str:
    """A metric with its unit: `91.00 %`."""
    return format_number(name, value) + unit_suffix(name)


def format_difference(name: str, value: float) -> str:
    """A difference of a metric with its sign and unit: `+1.00 points`."""
    return format_number(name, value, signed=True) + points_suffix(name)


def count_of(number: int, noun: str) -> str:
    """A number with its noun: `1 seed`, `3 seeds`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def relative_path(path: Path) -> str:
    """A path relative to the working directory if it lies below it, else absolute. Links are not resolved."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def last_line(error: object) -> str:
    """The last line of an error: for an error from a worker, its cause there. Empty for an error without text."""
    return str(error).strip().rpartition("\n")[2]


def make_table(title: str | None = None) -> Table:
    """A table with a rule under its header and no other lines. A text in a cell is shown as it is, without control
    characters.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    class PlainTable(Table):
        def add_row(self, *cells: Any, **settings: Any) -> None:
            super().add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in cells), **settings)

    return PlainTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def print_full_width(console: Console, table: Table, wrapped: bool = False) -> None:
    """Print a table without cutting off a cell, wider than the console if necessary. wrapped: break lines in cells."""
    measured = console.measure(table, options=console.options.update(max_width=1000))
    needed = measured.minimum if wrapped else measured.maximum
    width = console.width
    console.width = max(width, needed)
    console.print(table)
    console.width = width


def format_time_spent(seconds: float) -> str:
    """Format a time in two units.

    >>> format_time_spent(7080), format_time_spent(7200), format_time_spent(75.4), format_time_spent(8)
    ('1 h 58 min', '2 h', '1 min 15 s', '8 s')
    """
    whole = round(seconds) if seconds < 3600 else round(seconds / 60) * 60
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 s"


def format_duration(seconds: float) -> str:
    """A duration in the largest fitting unit: `12 s`, `5 min`, `2.5 h`."""
    if seconds < 0.5:
        return "less than a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
