"""Attempts and decisions of the continual protocol, and its saved progress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from clsearch.common.checked_files import UNMARKED, DamagedFile, read_checked, read_json
from clsearch.common.files import previous_path
from clsearch.methods.registry import decaying
from clsearch.planning.plan import Plan
from clsearch.records.json_types import AttemptJson, AttemptsJson, BestJson
from clsearch.records.ranking import Choice, Cost
from clsearch.records.trials import read_table

ATTEMPTS, ATTEMPTS_TABLE, STATE_FILE = "attempts.json", "attempts.csv", "continual.pt"
"""Files of a study's folder. The table is for people; it is read back if the first is missing or damaged."""


RATE_PHASE, METHOD_PHASE = "learning_rate", "method"
"""The phases of a task."""


SCORE = "learning_accuracy"
"""The protocol's score of its choice: accuracy on each task right after learning it, because earlier data are gone."""


@dataclass(frozen=True)
class Attempt:
    """One training of one task.

    Attributes:
        task: Number of the task.
        phase: `learning_rate` (plain finetuning) or `method`.
        values: The hyperparameters that were tried.
        accuracies: Validation accuracy on the task, of each seed; empty if training diverged.
        bar: The mean accuracy that the method must reach; None in the first phase.
        seeds: Number of seeds.
        seconds: Training time.
        kept: True if its values were chosen.
        when: Time of its end, in milliseconds since 1970.
    """

    task: int
    phase: str
    values: dict[str, float]
    accuracies: tuple[float, ...]
    bar: float | None
    seeds: int
    seconds: float
    kept: bool = False
    when: int = 0

    @classmethod
    def from_json(cls, content: AttemptJson) -> Attempt:
        """Read an attempt of attempts.json."""
        known: dict[str, Any] = {name: value for name, value in content.items() if name in AttemptJson.__annotations__}
        return cls(**known | {"accuracies": tuple(content["accuracies"])})

    @property
    def accuracy(self) -> float:
        """Mean over seeds; -inf if training diverged."""
        return math.fsum(self.accuracies) / len(self.accuracies) if self.accuracies else -math.inf


@dataclass(frozen=True)
class Decision:
    """The decisions of the protocol so far.

    Attributes:
        attempts: All attempts.
        choice: The choice, once every task has values.
        reason: Why there is no choice.
    """

    attempts: tuple[Attempt, ...] = ()
    choice: Choice | None = None
    reason: str = "interrupted"

    @property
    def kept(self) -> list[Attempt]:
        """The chosen attempt of the method in each task."""
        return [a for a in self.attempts if a.kept and a.phase == METHOD_PHASE]

    @property
    def cost(self) -> Cost:
        """The cost of all attempts."""
        trainings = sum(a.seeds for a in self.attempts)
        return Cost(trainings, math.fsum(a.seconds for a in self.attempts))

    def with_attempts(self, *attempts: Attempt) -> Decision:
        """Return the decision with more attempts."""
        return replace(self, attempts=(*self.attempts, *attempts))

    def with_kept(self, attempt: Attempt) -> Decision:
        """Return the decision with one of its attempts kept."""
        return replace(self, attempts=tuple(replace(a, kept=True) if a is attempt else a for a in self.attempts))

    def table(self, seeds: Sequence[int]) -> pd.DataFrame:
        """Make a table with a row per attempt. seeds: the seeds of the attempts."""
        rows = [
            {
                "task": a.task,
                "phase": a.phase,
                **a.values,
                "accuracy": a.accuracy if a.accuracies else math.nan,
                **{f"accuracy/seed_{seed}": value for seed, value in zip(seeds, a.accuracies, strict=False)},
                "bar": a.bar,
                "kept": a.kept,
                "seconds": a.seconds,
                "when": a.when,
            }
            for a in self.attempts
        ]
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class SavedProgress:
    """The progress of a process that ended.

    Attributes:
        attempts: All attempts.
        tasks: Number of tasks that have a state.
        state: The packed state after the last of them.
        damaged: Files that could not be read, and cost progress or nothing.
    """

    attempts: tuple[Attempt, ...] = ()
    tasks: int = 0
    state: bytes | None = None
    damaged: tuple[DamagedFile, ...] = ()


def read_progress(
    folder: Path, seeds: Sequence[int], tasks: Sequence[int], fingerprint: str | None = None
) -> SavedProgress:
    """Read a study's progress in the protocol: the attempts, and the state after the last task that has one.

    Args:
        folder: The study's folder.
        seeds: Its seeds.
        tasks: Its tasks.
        fingerprint: That of its states; None to take any.
    """
    attempts, damaged = read_attempts(folder, seeds)
    decided = 0
    kept = {a.task for a in attempts if a.kept and a.phase == METHOD_PHASE}
    while decided < len(tasks) and tasks[decided] in kept:
        decided += 1
    if decided == len(tasks):
        return SavedProgress(attempts, len(tasks), damaged=damaged)
    for path in (folder / STATE_FILE, previous_path(folder / STATE_FILE)):
        try:
            packed = read_checked(path, UNMARKED)
            found, learned = _summarize_state(packed, path)
            if fingerprint not in (None, found):
                raise DamagedFile(path, "a state of another configuration or other seeds")
        except FileNotFoundError:
            continue
        except DamagedFile as error:
            damaged = (*damaged, error)
            continue
        if learned <= decided:  # else attempts were lost on which the state rests
            return SavedProgress(attempts, learned, packed, damaged)
    return SavedProgress(attempts, damaged=damaged)


def _summarize_state(packed: bytes, path: Path) -> tuple[str, int]:
    """Return a state's fingerprint and its number of learned tasks. Raises DamagedFile."""
    from clsearch.training.state import TrialState  # torch, which a reader of other records does not wait for

    return TrialState.summary(packed, path)


def read_attempts(folder: Path, seeds: Sequence[int]) -> tuple[tuple[Attempt, ...], tuple[DamagedFile, ...]]:
    """Read the attempts, from the table if attempts.json is missing (as in studies of 0.1) or damaged."""
    damaged: tuple[DamagedFile, ...] = ()
    try:
        if (content := read_json(folder / ATTEMPTS, AttemptsJson)) is not None:
            return tuple(map(Attempt.from_json, content["attempts"])), ()
    except DamagedFile as error:
        damaged = (error,)
    table = folder / ATTEMPTS_TABLE
    if not table.exists():
        return (), damaged
    try:
        return read_attempts_table(table, seeds), damaged
    except DamagedFile as error:
        return (), (*damaged, error)


def read_attempts_table(path: Path, seeds: Sequence[int]) -> tuple[Attempt, ...]:
    """Read attempts.csv. Raises DamagedFile."""
    table = read_table(path, None).astype(object)
    rows = table.where(table.notna(), None).to_dict("records")
    try:
        return tuple(
            Attempt(
                task=int(row["task"]),
                phase=row["phase"],
                values={name: float(row[name]) for name in (RATE_PHASE, *decaying()) if row.get(name) is not None},
                accuracies=tuple(
                    float(value) for seed in seeds if (value := row.get(f"accuracy/seed_{seed}")) is not None
                ),
                bar=None if row["bar"] is None else float(row["bar"]),
                seeds=len(seeds),
                seconds=float(row["seconds"]),
                when=int(row["when"]),
                kept=row["kept"] in (True, "True"),
            )
            for row in rows
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(path, f"a table of another form ({error})") from None


def attempts_json(decision: Decision) -> AttemptsJson:
    """Return the content of attempts.json."""
    return {"attempts": [attempt_json(attempt) for attempt in decision.attempts]}


def attempt_json(attempt: Attempt) -> AttemptJson:
    """Return an attempt's content in attempts.json."""
    return {
        "task": attempt.task,
        "phase": attempt.phase,
        "values": dict(attempt.values),
        "accuracies": list(attempt.accuracies),
        "bar": attempt.bar,
        "seeds": attempt.seeds,
        "seconds": attempt.seconds,
        "kept": attempt.kept,
        "when": attempt.when,
    }


def attempt_metrics(attempt: Attempt, decision: Decision) -> dict[str, float]:
    """Return a task's metrics for MLflow: the chosen values, their accuracy, the bar, and the number of attempts."""
    tried = float(sum(a.task == attempt.task for a in decision.attempts))
    bar = {} if attempt.bar is None else {"bar": attempt.bar}
    return attempt.values | bar | {"accuracy": attempt.accuracy, "attempts": tried}


def decision_json(plan: Plan, decision: Decision) -> BestJson:
    """Return the content of best.json; `config` has the settings that all tasks share."""
    chosen = {"learning_rate", *plan.space}
    return {
        "label": None if decision.choice is None else decision.choice.label,
        "reason": decision.reason,
        "values": {},
        "config": {name: value for name, value in plan.config.flat().items() if name not in chosen},
        "per_task": [attempt.values for attempt in decision.kept],
        "seeds": list(plan.seeds),
        "cost": decision.cost.as_json(),
        "scores": {} if decision.choice is None else decision.choice.scores,
    }


MIN_ACCURACY_SHARE = 0.8
"""The share of A* that the method must reach on a task (1 - p in the paper, with p = 0.2)."""
