"""Send results/<study>/ to MLflow at any time: the records that a server missed, or all of them to another server."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from clsearch.common.formatting import relative_path
from clsearch.records.identity import check_not_copy
from clsearch.records.resume import study_lock
from clsearch.records.study_file import study_at
from clsearch.records.study_record import read_study
from clsearch.records.trials import latest
from clsearch.reporting.answer_text import describe_damage
from clsearch.reporting.html.report import REPORT, write_report
from clsearch.tracking.description import note_of
from clsearch.tracking.registration import check_registered_once
from clsearch.tracking.sender import quiet
from clsearch.tracking.store_check import check_tracking
from clsearch.tracking.stores import default_store, server_command, shown_store
from clsearch.tracking.study_runs import Runs


def sync(folder: Path, uri: str | None) -> str:
    """Bring MLflow up to date with a study that is not running; sending twice changes nothing.

    Args:
        folder: The study's folder.
        uri: The store; None for the study's own SQLite file.

    Returns:
        A text about what was sent.

    Raises:
        ConfigError: There is no study, another process runs it, or the store cannot be used.
    """
    folder, study = study_at(folder)
    check_tracking(uri)
    check_not_copy(folder, study)
    check_registered_once(folder, uri)
    quiet()
    with study_lock(folder):
        runs = Runs(study, folder, uri or default_store(folder))
        runs.connect()
        before = len(runs.ids)
        send(runs, folder)
    lines = [f"{relative_path(folder)}: {len(runs.ids)} runs in MLflow, {len(runs.ids) - before} of them new"]
    if (store := shown_store(folder, uri)).startswith("sqlite:"):
        lines.append(f"{'MLflow':<8} {server_command(store)}")
    reading = read_study(folder)
    lines += [f"{name:<8} {page}" for name, page in runs.pages(reading.ranking.trials).items()]
    lines += [*describe_damage(reading), *(f"Not sent: {damage}." for damage in runs.damaged)]
    return "\n".join(lines)


def send(runs: Runs, folder: Path) -> None:
    """Send everything in a study's folder."""
    study, reading = runs.study, read_study(folder)
    runs.begin()
    for record in (*reading.trials, *reading.references):
        runs.log_trial(record)
    if reading.decision.kept:
        runs.log_decision(reading.decision)
    if reading.best:
        times = [record.reported for record in reading.trials]
        runs.log_choice(reading.best, latest([*times, *(attempt.when for attempt in reading.decision.attempts)]))
    if reading.openings:
        runs.log_openings(reading.openings)
    if reading.final is not None:
        runs.log_evaluation(reading.final)
    with suppress(Exception):  # a failed report must not prevent the rest
        runs.log_report(folder / REPORT if (folder / REPORT).exists() else write_report(folder))
    runs.log_description(note_of(reading))
    runs.end("unfinished" if study["state"] == "running" else study["state"])
