"""The record of a trial: what results/<study>/trials/<label>/ holds, in memory and read back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd

from clsearch.records.json_types import RecordJson
from clsearch.records.study_file import ENDED

CURVE_FILE, STATE_FILE = "learning_curve.csv", "state.pt"
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
    times: when the driver heard of each learned task, in milliseconds since 1970; reported: of anything, last (`told`
    in record.json). restarts: after a worker died. place: the node, and the GPU, that it was trained on last. cohort:
    how many configurations it was begun with, itself among them.
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
        """Whether nothing more comes of it."""
        return self.state in ENDED


def trials_table(records: Iterable[TrialRecord], searched: Iterable[str]) -> pd.DataFrame:
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


def read_trials(folder: Path) -> dict[str, TrialRecord]:
    """A study's trials and references as they were last written, by label; without their learning curves."""
    found = {}
    for path in sorted((folder / "trials").glob("*/record.json")):
        found[path.parent.name] = record_from_json(json.loads(path.read_text(encoding="utf-8")))
    return found


NOT_IN_RECORD_JSON = ("curve", "epochs", "columns")
"""Fields of a record that lie in learning_curve.csv."""


def record_json(record: TrialRecord) -> RecordJson:
    """What record.json holds of a record."""
    # Not `asdict`, which copies the learning curve, too, at each task.
    content = {name: value for name, value in vars(record).items() if name not in NOT_IN_RECORD_JSON}
    return cast(RecordJson, {"told" if name == "reported" else name: value for name, value in content.items()})


def record_from_json(content: RecordJson) -> TrialRecord:
    """A record from its record.json, without its learning curve."""
    named: dict[str, Any] = {"reported" if name == "told" else name: value for name, value in content.items()}
    return TrialRecord(**named | {"seeds": tuple(content["seeds"])})


def with_curve(folder: Path, record: TrialRecord) -> TrialRecord:
    """A record with its learning curve, which is read from the study's folder where the record was read back."""
    path = folder / "trials" / record.label / CURVE_FILE
    if record.columns or not record.tasks_learned or not path.exists():
        return record
    table, members = pd.read_csv(path, float_precision="round_trip"), len(record.seeds)
    columns = [name for name in table.columns if name not in ("seed", "task", "epoch")]
    curve = table[columns].to_numpy().reshape(-1, members, len(columns))
    epochs = table[["task", "epoch"]].to_numpy()[::members]
    return replace(record, columns=columns, curve=curve.tolist(), epochs=epochs.tolist())
