"""Write results/<study>/, the record of a study. MLflow and reports are readers of it.

study.json                 question, base configuration, space, seeds, versions, commit; its resumptions
trials.csv, references.csv a row per trial: hyperparameters, metrics with spread, seconds, state, reason
trials/<label>/record.json one trial, with its accuracy matrices
trials/<label>/accuracy.csv, learning_curve.csv, learning_curve_2.csv (of further seeds)
trials/<label>/unlearning.csv
                           for unlearning: accuracy on all tasks, before and after the requests
trials/<label>/error.txt   of a trial whose worker died or raised an error: Ray's messages
best.json                  the best configuration, and the command that reruns it
attempts.json, attempts.csv
                           for protocol continual, instead of trials
final.json, final.csv, final_accuracy.csv
                           the choice and its references on fresh seeds; openings of test data
front.csv                  for several objectives
report.html                figures and tables, see `reporting.html.report`

What is read back has a digest, see `common.checked_files`; those of learning_curve.csv and final_accuracy.csv are in
record.json and final.json.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pandas as pd

from clsearch.common.checked_files import digest_of, write_json
from clsearch.common.files import TEMPORARY, write_atomically
from clsearch.common.redaction import redact
from clsearch.planning.plan import Plan
from clsearch.records.json_types import ProvenanceJson, SessionJson, StudyJson
from clsearch.records.study_file import MAY_CHANGE, RAY, RECORD, STUDY, description, read_study_json
from clsearch.records.trial_metrics import Measurements
from clsearch.records.trials import (
    CURVE_FILE,
    TrialRecord,
    curve_file,
    group_sizes,
    read_trials,
    record_json,
    remove_state,
    trials_table,
)
from clsearch.version import __version__

PACKAGES = ("ray", "optuna", "mlflow", "torch", "torchvision", "numpy", "pandas")


class StudyWriter:
    """Writes the record of one study; each file is replaced atomically."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = plan.folder
        self.study: StudyJson

    def begin_new(self) -> None:
        """Write study.json of a new study, before anything else is written in its folder."""
        if not (self.folder / STUDY).exists():
            self.begin()

    def begin(self) -> None:
        """Write study.json, once; if an earlier process wrote it, add this process and the changed settings."""
        if hasattr(self, "study"):
            return
        made, found, new = provenance(), read_study_json(self.folder), description(self.plan)
        name = self.folder.name  # tells the original from a copy
        if found is None:
            self.study = {"id": uuid4().hex, "name": name, **new, **made, "resumed": [], "state": "running"}
        else:
            session: SessionJson = {"command": self.plan.command, **made}
            changed = cast(StudyJson, {name: value for name, value in new.items() if name in MAY_CHANGE})
            resumed = [*found["resumed"], session]
            if found["trials"] < new["trials"]:  # patience begins anew
                ended = sum(r.ended and r.number is not None for r in read_trials(self.folder).values())
                changed["patience_from"] = ended
            self.study = {**found, **changed, "name": name, "resumed": resumed, "state": "running"}
        write_json(self.folder / STUDY, self.study)

    def end(self, state: str) -> None:
        """Write the final state of the study."""
        write_json(self.folder / STUDY, {**self.study, "state": state})

    def trial_folder(self, label: str) -> Path:
        """Return the folder of all files of a trial, including its checkpoint."""
        return self.folder / "trials" / label

    def write_trial(self, record: TrialRecord) -> TrialRecord:
        """Write the files of a trial; return the record with the digests of its tables."""
        folder = self.trial_folder(record.label)
        tasks = [f"task_{j:02d}" for j in self.plan.tasks]
        rows = [
            [seed, learned, *row]
            for seed, matrix in zip(record.seeds, record.accuracy, strict=False)
            for learned, row in enumerate(matrix)
        ]
        self._csv(folder / "accuracy.csv", pd.DataFrame(rows, columns=["seed", "tasks_learned", *tasks]))
        if record.unlearning:
            both = [
                [when, seed, learned, *row]
                for when in ("before", "after")
                for seed, matrix in zip(record.seeds, record.unlearning[when], strict=True)
                for learned, row in enumerate(matrix)
            ]
            columns = ["requests", "seed", "tasks_learned", *tasks]
            self._csv(folder / "unlearning.csv", pd.DataFrame(both, columns=columns))
        path = folder / CURVE_FILE
        if record.columns or not (record.tasks_learned or path.exists()):  # otherwise the record was read back
            digest = self._csv(path, curve_table(record, record.seeds))
            record = replace(record, tables=record.tables | {CURVE_FILE: digest})
        self.write_status(record)
        return record

    def write_group(self, record: TrialRecord, more: Measurements, seeds: Sequence[int]) -> TrialRecord:
        """Write the learning curve of a group of further seeds; return the trial's record with its digest."""
        name = curve_file(len(group_sizes(record)))
        table = curve_table(more, seeds)
        digest = self._csv(self.trial_folder(record.label) / name, table)
        return replace(record, tables=record.tables | {name: digest})

    def write_status(self, record: TrialRecord) -> None:
        """Write record.json of a trial."""
        write_json(self.trial_folder(record.label) / RECORD, record_json(record))

    def write_error(self, label: str, text: str) -> None:
        """Write the error of a failed trial, with tracebacks."""
        write_atomically(self.trial_folder(label) / "error.txt", redact(text).encode())

    def write_table(self, name: str, records: list[TrialRecord]) -> None:
        """Write <name>.csv, a row per trial."""
        self._csv(self.folder / f"{name}.csv", trials_table(records, self.plan.space, self.plan.constraints))

    def tidy(self, ended: Iterable[str]) -> None:
        """Remove what a killed process can leave: Ray's folder, incomplete files, and states of ended trials.

        Args:
            ended: Labels of the ended trials.
        """
        shutil.rmtree(self.folder / RAY, ignore_errors=True)
        for label in ended:
            remove_state(self.trial_folder(label))
        for path in [*self.folder.glob(TEMPORARY), *self.folder.glob(f"trials/*/{TEMPORARY}")]:
            path.unlink(missing_ok=True)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file in the study's folder."""
        write_json(self.folder / name, content)

    def write_csv(self, name: str, table: pd.DataFrame) -> str:
        """Write a CSV file in the study's folder; return its digest."""
        return self._csv(self.folder / name, table)

    def _csv(self, path: Path, table: pd.DataFrame) -> str:
        content = table.to_csv(index=False).encode()
        write_atomically(path, content)
        return digest_of(content)


def curve_table(measured: Measurements, seeds: Sequence[int]) -> pd.DataFrame:
    """Make the table of a learning curve: a row per epoch and seed."""
    rows = [
        [seed, *at, *numbers]
        for at, members in zip(measured.epochs, measured.curve, strict=True)
        for seed, numbers in zip(seeds, members, strict=True)
    ]
    return pd.DataFrame(rows, columns=["seed", "task", "epoch", *measured.columns])


def provenance() -> ProvenanceJson:
    """Return versions, commit and time of this process."""
    return {
        "versions": {"clsearch": __version__}
        | {name: version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "commit": code_version(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def code_version() -> str:
    """Return the commit of a checkout (`+changes` if it is not clean), else the package's version.

    In a job of Ray, the version is followed by the digest of the submitted files.
    """
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if git("ls-files", os.path.basename(__file__)):
            return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        pass
    package = next((part for part in here.parts if part.startswith("_ray_pkg_")), "")
    return f"{__version__}{package.replace('_ray_pkg_', '+')}"
