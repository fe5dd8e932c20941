"""results/<study>/ -> MLflow, again at any time: what a server missed, or all of it for another one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from clsearch.common.formatting import relative_path
from clsearch.records.attempts import Decision, read_progress
from clsearch.records.evaluation import recorded_openings
from clsearch.records.resume import study_lock
from clsearch.records.study_file import read_best_json, study_at
from clsearch.records.study_record import read_study
from clsearch.records.trials import latest, read_trials
from clsearch.reporting.html.report import REPORT, write_report
from clsearch.tracking.description import note_of
from clsearch.tracking.sender import quiet
from clsearch.tracking.store_check import check_tracking
from clsearch.tracking.stores import default_store, server_command, shown_store
from clsearch.tracking.study_runs import Runs


def sync(folder: Path, uri: str | None) -> str:
    """Bring MLflow up to date with a study that is not running; sending it twice changes nothing. uri: the store; None
    for the study's own SQLite file. Gives what was done.

    Raises ConfigError where there is no study, another process runs it, or the store can't be used.
    """
    folder, study = study_at(folder)
    check_tracking(uri)
    quiet()
    with study_lock(folder):
        runs = Runs(study, folder, uri or default_store(folder))
        runs.connect()
        before = len(runs.ids)
        send(runs, folder)
    lines = [f"{relative_path(folder)}: {len(runs.ids)} runs in MLflow, {len(runs.ids) - before} of them new"]
    if (store := shown_store(folder, uri)).startswith("sqlite:"):
        lines.append(f"{'MLflow':<8} {server_command(store)}")
    lines += [f"{name:<8} {page}" for name, page in runs.pages(read_study(folder).ranking.trials).items()]
    return "\n".join(lines)


def send(runs: Runs, folder: Path) -> None:
    """Everything that a study's folder holds."""
    study, records = runs.study, read_trials(folder)
    runs.begin()
    for record in records.values():
        runs.trial(record)
    begun = read_progress(folder, study["seeds"], study["tasks"])
    decision = Decision(begun.attempts)
    if decision.kept:
        runs.decided(decision)
    if best := read_best_json(folder):
        told = [record.reported for record in records.values() if record.number is not None]
        runs.concluded(best, latest([*told, *(attempt.when for attempt in begun.attempts)]))
    if openings := recorded_openings(folder):
        runs.opened(openings)
    reading = read_study(folder)
    if reading.final is not None:
        runs.evaluated(reading.final)
    with suppress(Exception):  # without a report the rest is sent all the same
        runs.reported(folder / REPORT if (folder / REPORT).exists() else write_report(folder))
    runs.described(note_of(reading))
    runs.end("unfinished" if study["state"] == "running" else study["state"])
