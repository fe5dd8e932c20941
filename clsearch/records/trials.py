"""The record of a trial in memory, and its file in results/<study>/trials/<label>/."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from clsearch.common.checked_files import DamagedFile, digest_of
from clsearch.common.echo import ShortRepr
from clsearch.common.files import previous_path, remove_file
from clsearch.config.domains import Range
from clsearch.config.plain_values import Plain, show_value
from clsearch.config.spaces import SearchSpace
from clsearch.planning.objectives import is_feasible
from clsearch.records.json_types import RecordJson
from clsearch.records.study_file import ENDED, read_records

CURVE_FILE, STATE_FILE = "learning_curve.csv", "state.pt"
"""Files of a trial's folder; the second is its checkpoint."""


REFUSED = "the configuration is refused"
"""How the reason of a trial begins whose suggested configuration breaks a rule."""


def now() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


def latest(times: Iterable[int]) -> int:
    """Return the latest of some times; the present time if there are none."""
    return max(times, default=0) or now()


def trial_label(number: int) -> str:
    """Return the name of a trial in folders and runs."""
    return f"trial_{number:05d}"


@dataclass(frozen=True)
class Origin:
    """Why a trial is tried if the sampler did not suggest it.

    Attributes:
        why: `enqueued`, or the study and trial that a warm start took it from; "" if the sampler suggested it.
        given: The hyperparameters whose values came from there.
    """

    why: str = ""
    given: tuple[str, ...] = ()


SUGGESTED = Origin()


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
        tables: Digests of its tables that are read back, by name.
        origin, given: See `Origin`; the sampler chose the other values.
        groups: How many of its seeds trained together, in order, if it got further seeds; else empty.
    """

    label: str
    number: int | None
    algorithm: str
    values: dict[str, Plain]
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
    tables: dict[str, str] = field(default_factory=dict)
    origin: str = ""
    given: list[str] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """True if the trial is in a terminal state."""
        return self.state in ENDED


def trials_table(
    records: Sequence[TrialRecord], space: SearchSpace, constraints: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Make a table with a row per trial.

    Only finished trials have metrics, so that a mean over few tasks is not sorted among means over all tasks. A cell is
    missing if a hyperparameter does not apply to the trial.

    Args:
        records: The trials, or references, which have the hyperparameters that they share with the choice.
        space: The search space.
        constraints: Those of the study; if there are some, a column says which finished trials keep them.
    """
    searched = [name for name in space if not records or any(name in r.values for r in records)]
    metrics = dict.fromkeys(name for r in records if r.state == "finished" for name in r.metrics)
    columns = {
        "label": [r.label for r in records],
        "number": [r.number for r in records],
        "algorithm": [r.algorithm for r in records],
        "state": [r.state for r in records],
        **({"feasible": [mark_feasible(r, constraints) for r in records]} if constraints else {}),
        **{name: type_column(space, name, records) for name in searched},
        **{name: [r.metrics.get(name) if r.state == "finished" else None for r in records] for name in metrics},
        "seeds": [len(r.seeds) for r in records],
        "tasks_learned": [r.tasks_learned for r in records],
        "seconds": [r.seconds for r in records],
        "place": [r.place for r in records],
        "origin": [r.origin for r in records],
        "reason": [r.reason for r in records],
    }
    return pd.DataFrame(columns)


def mark_feasible(record: TrialRecord, constraints: Mapping[str, float]) -> str:
    """Return yes or no for a finished trial, whether it keeps the constraints; "" for others."""
    if record.state != "finished":
        return ""
    return "yes" if is_feasible(constraints, record.metrics) else "no"


def type_column(space: SearchSpace, name: str, records: Sequence[TrialRecord]) -> pd.Series[Any]:
    """Make the column of a hyperparameter with the type that all its values have.

    Whole numbers are Int64, true and false boolean, other numbers float64, anything else text: `none` if a choice is
    none. The first two and text are pandas' types that can lack a value.
    """
    domains = [part.domain for part in space.parts if part.name == name]
    kinds = {type(end) for domain in domains for end in domain.ends}
    kinds |= {float for domain in domains if isinstance(domain, Range)}
    if kinds in ({bool}, {int}):
        return pd.Series([r.values.get(name, pd.NA) for r in records], dtype="boolean" if bool in kinds else "Int64")
    if kinds <= {int, float}:
        return pd.Series([r.values.get(name, math.nan) for r in records], dtype="float64")
    return pd.Series([show_value(r.values[name], 12) if name in r.values else pd.NA for r in records], dtype="string")


def read_trials(folder: Path) -> dict[str, TrialRecord]:
    """Read a study's trials and references by label, without their learning curves and without damaged ones."""
    return read_trials_and_damage(folder, ())[0]


def read_trials_and_damage(
    folder: Path, objectives: Sequence[str]
) -> tuple[dict[str, TrialRecord], tuple[DamagedFile, ...]]:
    """Read a study's trials and references by label, without their learning curves, and name the damaged ones.

    Args:
        folder: The study's folder.
        objectives: The metrics that a finished trial must have.
    """
    found = read_records(folder, objectives)
    return {label: record_from_json(content) for label, content in found.whole.items()}, found.damaged


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
    known = {name: value for name, value in named.items() if name in TrialRecord.__dataclass_fields__}
    return TrialRecord(**known | {"seeds": tuple(content["seeds"])})


def with_curve(
    folder: Path, record: TrialRecord, warn: Callable[[DamagedFile], None] = lambda damage: None
) -> TrialRecord:
    """Return a record with its learning curve, read from the study's folder if the record does not have it.

    Args:
        folder: The study's folder.
        record: The record.
        warn: Called if the curve is damaged, and left out.
    """
    path = folder / "trials" / record.label / CURVE_FILE
    if record.columns or not record.tasks_learned or not path.exists():
        return record
    parts, columns = [], list[str]()
    try:
        for position, members in enumerate(group_sizes(record)):
            path = path.with_name(curve_file(position))
            table = read_table(path, record.tables.get(path.name))
            columns = [name for name in table.columns if name not in ("seed", "task", "epoch")]
            epochs = table[["task", "epoch"]].to_numpy(dtype=int)[::members]
            parts.append((epochs, table[columns].to_numpy(dtype=float).reshape(-1, members, len(columns))))
        epochs, curve = merge_curves(parts)
    except DamagedFile as damage:
        warn(damage)
        return record
    except (KeyError, ValueError) as error:
        warn(DamagedFile(path, f"a table of another form ({error})"))
        return record
    return replace(record, columns=columns, curve=curve.tolist(), epochs=epochs.tolist())


def group_sizes(record: TrialRecord) -> list[int]:
    """Return how many of a trial's seeds trained together, in order."""
    return record.groups or [len(record.seeds)]


def curve_file(group: int) -> str:
    """Return the file of the learning curve of a group of a trial's seeds, from 0."""
    return CURVE_FILE if not group else CURVE_FILE.replace(".", f"_{group + 1}.")


def merge_curves(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Join learning curves of different seeds; a group has NaN for an epoch that only others had.

    Args:
        parts: Task and epoch of its rows [E, 2], and the curve [E, M, K], of each group of seeds.

    Returns:
        The same of all.
    """
    rows = sorted({(int(task), int(epoch)) for epochs, _ in parts for task, epoch in epochs})
    place = {row: position for position, row in enumerate(rows)}
    whole = []
    for epochs, curve in parts:
        filled = np.full((len(rows), *curve.shape[1:]), np.nan)
        filled[[place[int(task), int(epoch)] for task, epoch in epochs]] = curve
        whole.append(filled)
    return np.array(rows, dtype=int).reshape(-1, 2), np.concatenate(whole, axis=1)


def read_table(path: Path, digest: str | None) -> pd.DataFrame:
    """Read a table of a study. digest: that of the whole file; None if it is unknown, as in studies of 0.1.

    Raises:
        DamagedFile: It is missing or damaged.
    """
    try:
        content = path.read_bytes()
        if digest is not None and digest_of(content) != digest:
            raise DamagedFile(path, "content that does not fit its digest")
        return pd.read_csv(io.BytesIO(content), float_precision="round_trip")
    except OSError as error:
        raise DamagedFile(path, (error.strerror or str(error)).lower()) from None
    except ValueError as error:  # pandas' own errors are such, too
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(path, f"no table ({error})") from None


def remove_state(folder: Path) -> None:
    """Remove the checkpoints of a trial that has ended. folder: the trial's."""
    for path in (folder / STATE_FILE, previous_path(folder / STATE_FILE)):
        remove_file(path)
