"""List the studies of a results folder. Importing this module is fast; it reads only the small files of a study."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from rich.table import Table

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.formatting import humanize, make_table, relative_path, to_display_units
from clsearch.methods.registry import label_of
from clsearch.planning.objectives import sign
from clsearch.records.json_types import BestJson, FinalRowJson, StudyJson
from clsearch.records.resume import lock_path
from clsearch.records.study_file import (
    ENDED,
    has_lost_study_json,
    read_best_json,
    read_final_json,
    read_records,
    read_study_json,
)

DAMAGED = "damaged"
"""State of a study in a list whose study.json cannot be read."""


@dataclass(frozen=True)
class Entry:
    """A study in a list.

    Attributes:
        name, algorithm, benchmark, state, started: Of the study.
        trials: Number of ended trials, and of all.
        best: The best score on validation data, of average accuracy unless it names another metric; "" if there is
            none.
        test: The choice's score on test data; "" if there is none.
    """

    name: str
    algorithm: str
    benchmark: str
    state: str
    trials: str
    best: str
    test: str
    started: str


Warn = Callable[[str], None]
"""Called with a line about a damaged file."""

T = TypeVar("T")


def print_nothing(line: str) -> None:
    """Warn nobody."""


def list_studies(results: Path, warn: Warn = print_nothing) -> list[Entry]:
    """List the studies of a results folder, newest first; damaged ones last, in the state `damaged`.

    Args:
        results: The results folder.
        warn: Called with a line about each damaged file that was read.

    Raises:
        ConfigError: The folder does not exist.
    """
    if not results.is_dir():
        text = f"results: must be a folder that exists; got {relative_path(results)}"
        raise ConfigError([Refusal("results-exist", text)])
    found = []
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        try:
            if (study := read_study_json(folder)) is not None:
                found.append(make_entry(folder, study, warn))
            elif has_lost_study_json(folder):
                warn(f"{relative_path(folder)}: has trials and no study.json: put it back from a copy")
                found.append(damaged_entry(folder))
        except ConfigError as error:
            warn(str(error))
            found.append(damaged_entry(folder))
    return sorted(found, key=lambda entry: entry.started, reverse=True)


def damaged_entry(folder: Path) -> Entry:
    """Make the entry of a study whose study.json cannot be read."""
    return Entry(folder.name, "", "", DAMAGED, "", "", "", "")


def read_or_warn(read: Callable[[], T], warn: Warn) -> T | None:
    """Read a file; None, with a warning, if it is damaged."""
    try:
        return read()
    except ConfigError as error:
        warn(str(error))
        return None


def make_entry(folder: Path, study: StudyJson, warn: Warn = print_nothing) -> Entry:
    """Make the entry of a study."""
    finished = study["state"] == "finished"
    best: BestJson = read_or_warn(partial(read_best_json, folder, finished), warn) or {}
    final = read_or_warn(partial(read_final_json, folder, finished and bool(study["report_seeds"])), warn)
    state, continual = study_state(folder, study), study["protocol"] == "continual"
    if continual:  # its score is not the objective
        counts, (metric, score) = Counter[str](), next(iter(best.get("scores", {}).items()), ("", None))
    else:
        metric = study["objectives"][0]
        if state in ("finished", "failed") and "trials" in best:
            counts, score = Counter(best["trials"]), best.get("metrics", {}).get(metric)
        else:
            counts, score = progress_counts(folder, metric, warn)
    rows = final["rows"] if final is not None and final["choice"]["label"] == best.get("label") else []
    chosen = [row for row in rows if row["configuration"] == "chosen" and not row["reason"]]
    if state not in ("finished", "failed"):  # it can belong to an earlier choice
        chosen = []
    return Entry(
        name=folder.name,
        algorithm=label_of(study["algorithm"]),
        benchmark=study["config"]["benchmark"],
        state=state,
        trials="task by task" if continual else f"{sum(counts[name] for name in ENDED)}/{study['trials']}",
        best=" ".join([as_percent(metric, score), humanize(metric) if metric != "average_accuracy" else ""]).strip(),
        test=as_percent("average_accuracy", test_score(chosen[0]) if chosen else None),
        started=study["started"][:16].replace("T", " "),
    )


def progress_counts(folder: Path, objective: str, warn: Warn = print_nothing) -> tuple[Counter[str], float | None]:
    """Count the trials in each state, and find the best value of an objective, of a running study."""
    found = read_records(folder, (objective,), "trial_*")
    for damage in found.damaged:
        warn(str(damage))
    records = found.whole.values()
    values = [record["metrics"][objective] for record in records if record["state"] == "finished"]
    best = max(values, key=lambda value: sign(objective) * value, default=None)
    return Counter(record["state"] for record in records), best


def test_score(row: FinalRowJson) -> float | None:
    """Return the average accuracy of a row of final.json on test data."""
    found: float | None = row["test"].get("average_accuracy", {}).get("mean")
    return found


def as_percent(metric: str, value: float | None) -> str:
    """Format a metric, in percent if it is a share; "" for None."""
    return "" if value is None or math.isnan(value) else f"{to_display_units(metric, value):.2f}"


def study_state(folder: Path, study: StudyJson) -> str:
    """Return finished, failed, interrupted (the same command resumes it) or running (a process holds it).

    Return `running?` if its lock cannot be examined.
    """
    try:
        if lock_path(folder).exists():
            with FileLock(lock_path(folder), timeout=0):
                pass
    except Timeout:
        return "running"
    except OSError:  # the folder belongs to another user, who perhaps runs it now
        return "running?" if study["state"] == "running" else str(study["state"])
    return "interrupted" if study["state"] in ("running", "unfinished") else str(study["state"])


def list_table(entries: list[Entry]) -> Table:
    """Make a table of studies."""
    table = make_table()
    heads = ("study", "algorithm", "benchmark", "state", "trials", "best,\nvalidation (%)", "chosen,\ntest (%)")
    for name in (*heads, "started"):
        table.add_column(name, justify="right" if name in heads[4:] else "left", no_wrap=True)
    for entry in entries:
        table.add_row(*vars(entry).values())
    return table
