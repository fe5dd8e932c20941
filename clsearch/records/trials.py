"""results/<study>/: the record of a study. MLflow and reports are readers of it.

study.json                 question, base configuration, space, seeds, versions, commit; when it was gone on with
trials.csv, references.csv a row per trial: hyperparameters, metrics with spread, seconds, state, reason
trials/<label>/record.json the same for one trial, with its accuracy matrices
trials/<label>/accuracy.csv, learning_curve.csv
trials/<label>/unlearning.csv
                           of trials of which tasks were unlearned: accuracy on all tasks, before and after the requests
trials/<label>/error.txt   of a trial whose worker died or raised: all that Ray says of it
best.json                  the best configuration and the command that reruns it
attempts.csv               of the protocol continual, instead of trials
final.json, final.csv, final_accuracy.csv
                           the choice and its references on fresh seeds, when test data was opened
front.csv                  of several objectives
report.html                all of it in pictures, see `report`
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd

from clsearch.common.files import TEMPORARY, write_atomically
from clsearch.planning.plan import Plan
from clsearch.records.study_file import MAY_CHANGE, RAY, STUDY, description, finite, stored
from clsearch.version import __version__

PACKAGES = ("ray", "optuna", "mlflow", "torch", "torchvision", "numpy", "pandas")

ENDED = ("finished", "pruned", "failed")
"""States of trials of which nothing more comes."""

PREFIXES = ".prefixes"
"""Folder beside the studies where trials leave the first task for each other."""

CURVE, STATE_FILE = "learning_curve.csv", "state.pt"
"""Files of a trial's folder: the second is its own checkpoint."""


def now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def latest(times: Iterable[int]) -> int:
    """The last of times; now where there is none."""
    return max(times, default=0) or now()


@dataclass(frozen=True)
class TrialRecord:
    """A trial as it stands: waiting, running, finished, failed, pruned (stopped early) or unfinished (cut off), with
    the reason.

    number: Optuna's, None for a reference. values: the searched hyperparameters. settings: all of them, flat.
    metrics: name -> mean over seeds, `<name>/std` its spread, after `tasks_learned` tasks.
    accuracy: R `[M][T+1][T]` with None where not measured. unlearning: what was measured of it, see
    `metrics.unlearning`. curve: `[E][M][K]` with its columns and `[E][2]` (task, epoch).
    shared_seconds: that another trial spent on the first task, which this one took over.
    times: when the driver was told of each learned task, in milliseconds since 1970; told: of anything, last. restarts:
    after a worker died. place: the node, and the GPU, that it was trained on last. cohort: how many configurations it
    was begun with, itself among them.
    """

    label: str
    number: int | None
    algorithm: str
    values: dict[str, float]
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    state: str = "running"
    reason: str = ""
    tasks_learned: int = 0
    seconds: float = 0.0
    shared_seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    accuracy: list[Any] = field(default_factory=list)
    unlearning: dict[str, Any] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    curve: list[Any] = field(default_factory=list)
    epochs: list[Any] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    told: int = 0
    restarts: int = 0
    place: str = ""
    cohort: int = 1

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in ENDED


def metrics_of(result: dict[str, Any]) -> dict[str, float]:
    """The metrics in a result of Ray Tune: our names, finite values."""
    names = (
        "average_",
        "learning_accuracy",
        "backward_",
        "forward_",
        "accuracy/",
        "forgetting/",
        "train/",
        "unlearning/",
    )
    return {
        k: float(v)
        for k, v in result.items()
        if k.startswith(names) and isinstance(v, int | float) and math.isfinite(v)
    }


class Results:
    """Writes the record of one study; each file is whole at any moment."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = plan.folder
        self.study: dict[str, Any] = {}

    def begin(self) -> None:
        """Write study.json; where there is one, add that the study goes on, and with what."""
        made, found = made_with(), stored(self.folder / STUDY)
        if found is None:
            content = {"id": uuid4().hex} | description(self.plan) | made | {"resumed": []}
        else:
            changed = {name: description(self.plan)[name] for name in MAY_CHANGE}
            session = {"command": self.plan.command} | made
            content = found | changed | {"resumed": [*found["resumed"], session]}
        self.study = content | {"state": "running"}
        write_json(self.folder / STUDY, self.study)

    def end(self, state: str) -> None:
        """Write how the study ended."""
        write_json(self.folder / STUDY, self.study | {"state": state})

    def trial_folder(self, label: str) -> Path:
        """The one place of a trial's files, its checkpoint included."""
        return self.folder / "trials" / label

    def write_trial(self, record: TrialRecord) -> None:
        """Write one trial's files."""
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
        path = folder / CURVE
        if record.columns or not path.exists():  # else it was read back, and the curve is there
            curve = [
                [seed, *at, *numbers]
                for at, members in zip(record.epochs, record.curve, strict=True)
                for seed, numbers in zip(record.seeds, members, strict=True)
            ]
            columns = ["seed", "task", "epoch", *record.columns]
            self._csv(path, pd.DataFrame(curve, columns=columns))
        self.note_trial(record)

    def note_trial(self, record: TrialRecord) -> None:
        """Write how a trial stands."""
        # Not `asdict`, which copies the learning curve, too, at each task.
        content = {k: v for k, v in vars(record).items() if k not in ("curve", "epochs", "columns")}
        write_json(self.trial_folder(record.label) / "record.json", content)

    def write_error(self, label: str, text: str) -> None:
        """Write what is known of why a trial failed, tracebacks included."""
        write_atomically(self.trial_folder(label) / "error.txt", text.encode())

    def write_table(self, name: str, records: list[TrialRecord]) -> None:
        """Write <name>.csv, a row per trial."""
        self._csv(self.folder / f"{name}.csv", table_of(records, self.plan.space))

    def tidy(self, ended: Iterable[str]) -> None:
        """Remove what a process that was killed may leave: Ray's own folder, files half written, and the states of
        trials that ended (their labels).
        """
        shutil.rmtree(self.folder / RAY, ignore_errors=True)
        for label in ended:
            (self.trial_folder(label) / STATE_FILE).unlink(missing_ok=True)
        for path in [*self.folder.glob(TEMPORARY), *self.folder.glob(f"trials/*/{TEMPORARY}")]:
            path.unlink(missing_ok=True)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a file of the study's folder."""
        write_json(self.folder / name, content)

    def write_csv(self, name: str, table: pd.DataFrame) -> None:
        """Write a file of the study's folder."""
        self._csv(self.folder / name, table)

    def _csv(self, path: Path, table: pd.DataFrame) -> None:
        write_atomically(path, table.to_csv(index=False).encode())


def table_of(records: Iterable[TrialRecord], searched: Iterable[str]) -> pd.DataFrame:
    """A row per trial. Only finished trials have metrics: a mean over few tasks must not be sorted among means over
    all. searched: names of hyperparameters.
    """
    rows = [
        {
            "label": r.label,
            "number": r.number,
            "algorithm": r.algorithm,
            "state": r.state,
            **r.values,
            **(r.metrics if r.state == "finished" else {}),
            "tasks_learned": r.tasks_learned,
            "seconds": r.seconds,
            "place": r.place,
            "reason": r.reason,
        }
        for r in records
    ]
    always = ["label", "number", "algorithm", "state", *searched, "tasks_learned", "seconds", "place", "reason"]
    return pd.DataFrame(rows, columns=None if rows else always)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file of JSON, atomically; NaN and infinity become null."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())


def read_trials(folder: Path) -> dict[str, TrialRecord]:
    """A study's trials and references as they were last written, by label; without their learning curves."""
    found = {}
    for path in sorted((folder / "trials").glob("*/record.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found[path.parent.name] = TrialRecord(**content | {"seeds": tuple(content["seeds"])})
    return found


def with_curve(folder: Path, record: TrialRecord) -> TrialRecord:
    """A record with its learning curve, which is read from the study's folder where the record was read back."""
    path = folder / "trials" / record.label / CURVE
    if record.columns or not record.tasks_learned or not path.exists():
        return record
    table, members = pd.read_csv(path, float_precision="round_trip"), len(record.seeds)
    columns = [name for name in table.columns if name not in ("seed", "task", "epoch")]
    curve = table[columns].to_numpy().reshape(-1, members, len(columns))
    epochs = table[["task", "epoch"]].to_numpy()[::members]
    return replace(record, columns=columns, curve=curve.tolist(), epochs=epochs.tolist())


def made_with() -> dict[str, Any]:
    """What a record was made with: versions, commit and time."""
    return {
        "versions": {"clsearch": __version__}
        | {name: version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "commit": code_version(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def code_version() -> str:
    """The commit of a checkout (`+changes` where it is not clean); else the package's version, and in a job of Ray's
    the digest of what was sent.
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
