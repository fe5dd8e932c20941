"""The record of a trial in memory, and its file in results/<study>/trials/<label>/."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd

from clsearch.common.echo import ShortRepr
from clsearch.records.json_types import RecordJson
from clsearch.records.study_file import ENDED

CURVE_FILE, STATE_FILE = "learning_curve.csv", "state.pt"
"""Files of a trial's folder; the second is its checkpoint."""


def now() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


def latest(times: Iterable[int]) -> int:
    """Return the latest of some times; the present time if there are none."""
    return max(times, default=0) or now()


@dataclass(frozen=True, repr=False)
class TrialRecord(ShortRepr):
    """The record of a trial.

    Attributes:
        label: Its name.
        number: Optuna's number; None for a reference.
        algorithm: Its algorithm.
        values: The searched hyperparameters.
        settings: All settings, flat.
        seeds: Its M seeds.
        state: waiting, running, finished, failed, pruned (stopped early) or unfinished (cut off).
        reason: Why it failed or was cut off.
        tasks_learned: Number of learned tasks.
        seconds: Training time.
        shared_seconds: Training time of another trial for the first task, which this one reused.
        metrics: Name -> mean over seeds, `<name>/std` its spread, after `tasks_learned` tasks.
        accuracy: R `[M][T+1][T]`, None if not measured.
        unlearning: Measurements of unlearning, see `metrics.unlearning`.
        columns: Names of the learning curve's K columns.
        curve: The learning curve, `[E][M][K]`.
        epochs: Task and epoch of its rows, `[E][2]`.
        times: When the driver received the report of each learned task, in milliseconds since 1970.
        reported: When the driver received the last report (`told` in record.json).
        restarts: Number of restarts after a worker died.
        place: The node, and the GPU, of the last training.
        cohort: Number of configurations that began with it, including itself.
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
    reported: int = 0
    restarts: int = 0
    place: str = ""
    cohort: int = 1

    @property
    def ended(self) -> bool:
        """True if the trial is in a terminal state."""
        return self.state in ENDED


def trials_table(records: Iterable[TrialRecord], searched: Iterable[str]) -> pd.DataFrame:
    """Make a table with a row per trial.

    Only finished trials have metrics, so that a mean over few tasks is not sorted among means over all tasks.

    Args:
        records: The trials.
        searched: Names of the searched hyperparameters.
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


def read_trials(folder: Path) -> dict[str, TrialRecord]:
    """Read a study's trials and references by label, without their learning curves."""
    found = {}
    for path in sorted((folder / "trials").glob("*/record.json")):
        found[path.parent.name] = record_from_json(json.loads(path.read_text(encoding="utf-8")))
    return found


NOT_IN_RECORD_JSON = ("curve", "epochs", "columns")
"""Fields of a record that are stored in learning_curve.csv."""


def record_json(record: TrialRecord) -> RecordJson:
    """Return the content of record.json."""
    # `asdict` would also copy the learning curve at each task.
    content = {name: value for name, value in vars(record).items() if name not in NOT_IN_RECORD_JSON}
    return cast(RecordJson, {"told" if name == "reported" else name: value for name, value in content.items()})


def record_from_json(content: RecordJson) -> TrialRecord:
    """Make a record from its record.json, without its learning curve."""
    named: dict[str, Any] = {"reported" if name == "told" else name: value for name, value in content.items()}
    return TrialRecord(**named | {"seeds": tuple(content["seeds"])})


def with_curve(folder: Path, record: TrialRecord) -> TrialRecord:
    """Return a record with its learning curve, read from the study's folder if the record does not have it."""
    path = folder / "trials" / record.label / CURVE_FILE
    if record.columns or not record.tasks_learned or not path.exists():
        return record
    table, members = pd.read_csv(path, float_precision="round_trip"), len(record.seeds)
    columns = [name for name in table.columns if name not in ("seed", "task", "epoch")]
    curve = table[columns].to_numpy().reshape(-1, members, len(columns))
    epochs = table[["task", "epoch"]].to_numpy()[::members]
    return replace(record, columns=columns, curve=curve.tolist(), epochs=epochs.tolist())
