"""results/<study>/ -> MLflow, again at any time: what a server missed, or all of it for another one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from clsearch.tuning.continual import Decision, read_begun
from clsearch.tuning.display import near
from clsearch.tuning.final import openings_of
from clsearch.tuning.identity import stored, study_at
from clsearch.tuning.preflight import check_tracking
from clsearch.tuning.reading import read_study
from clsearch.tuning.records import latest, read_trials
from clsearch.tuning.report import REPORT, write_report
from clsearch.tuning.report_note import note_of
from clsearch.tuning.resume import claimed
from clsearch.tuning.runs import Runs
from clsearch.tuning.stores import default_store, shown_store
from clsearch.tuning.summary import server_command
from clsearch.tuning.tracking import quiet


def sync(folder: Path, uri: str | None) -> str:
    """Bring MLflow up to date with a study that is not running; sending it twice changes nothing. uri: the store; None
    for the study's own SQLite file. Gives what was done.

    Raises ConfigError where there is no study, another process runs it, or the store can't be used.
    """
    folder, study = study_at(folder)
    check_tracking(uri)
    quiet()
    with claimed(folder):
        runs = Runs(study, folder, uri or default_store(folder))
        runs.connect()
        before = len(runs.ids)
        send(runs, folder)
    lines = [f"{near(folder)}: {len(runs.ids)} runs in MLflow, {len(runs.ids) - before} of them new"]
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
    begun = read_begun(folder, study["seeds"], study["tasks"])
    decision = Decision(begun.attempts)
    if decision.kept:
        runs.decided(decision)
    if best := stored(folder / "best.json"):
        told = [record.told for record in records.values() if record.number is not None]
        runs.concluded(best, latest([*told, *(attempt.when for attempt in begun.attempts)]))
    if openings := openings_of(folder):
        runs.opened(openings)
    reading = read_study(folder)
    if reading.final is not None:
        runs.evaluated(reading.final)
    with suppress(Exception):  # without a report the rest is sent all the same
        runs.reported(folder / REPORT if (folder / REPORT).exists() else write_report(folder))
    runs.described(note_of(reading))
    runs.end("unfinished" if study["state"] == "running" else study["state"])
