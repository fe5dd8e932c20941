"""How paths, addresses, errors and tables are shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ALGORITHM_LABELS = {
    "lwf": "LwF",
    "ewc": "EWC",
    "lwf_ewc": "LwF with EWC",
    "joint": "joint training",
    "amnesiac_lwf": "AmnesiacLwF",
    "amnesiac_ewc": "AmnesiacEWC",
    "amnesiac_finetuning": "AmnesiacFinetuning",
}
"""Algorithms as they are written; others as they are named."""


def algorithm_label(algorithm: str) -> str:
    """An algorithm as it is written."""
    return ALGORITHM_LABELS.get(algorithm, algorithm.replace("_", " "))


DISTANCE = "unlearning/distance"
"""Begins the names of metrics that are no shares."""

METRIC_LABELS = {DISTANCE: "distance to retraining", "unlearning/gap_to_chance": "gap to chance of what was unlearned"}
"""Metrics that are not called as they are named."""


def humanize(name: str) -> str:
    """A metric or hyperparameter as a sentence has it."""
    return METRIC_LABELS.get(name, name.replace("_", " "))


def to_display_units(name: str, value: float) -> float:
    """A metric as it is shown: in percent, but for distances."""
    return value if name.startswith(DISTANCE) else 100 * value


def unit_suffix(name: str) -> str:
    """What follows a metric that is shown."""
    return "" if name.startswith(DISTANCE) else " %"


def points_suffix(name: str) -> str:
    """What follows a difference of a metric."""
    return " points" if unit_suffix(name) else ""


def label_with_unit(name: str) -> str:
    """A metric with its unit, as an axis or a column has it."""
    return humanize(name) + (" (%)" if unit_suffix(name) else "")


def relative_path(path: Path) -> str:
    """A path from the working directory where it lies below, else absolute; links are not followed."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def without_password(uri: str) -> str:
    """A URI as it may be shown: user and password taken out."""
    scheme, mark, rest = uri.partition("://")
    server, slash, path = rest.partition("/")
    return f"{scheme}{mark}{server.rpartition('@')[2]}{slash}{path}"


def last_line(error: object) -> str:
    """What an error ends with: of a worker's, that is what went wrong there. Empty where it says nothing."""
    return str(error).strip().rpartition("\n")[2]


def make_table(title: str | None = None) -> Table:
    """A table with a rule under its head and nothing else drawn."""
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def print_full_width(console: Console, table: Table, wrapped: bool = False) -> None:
    """Print a table with no cell cut off, beyond the console's width if need be. wrapped: as narrow as may be."""
    measured = console.measure(table, options=console.options.update(max_width=1000))
    needed = measured.minimum if wrapped else measured.maximum
    width = console.width
    console.width = max(width, needed)
    console.print(table)
    console.width = width


def format_duration(seconds: float) -> str:
    """A time, as people say it."""
    if seconds < 0.5:
        return "less than a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
