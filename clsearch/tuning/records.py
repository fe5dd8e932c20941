"""results/<study>/: the record of a study. MLflow and reports are readers of it.

study.json                 question, base configuration, space, seeds, versions, commit
trials.csv, references.csv a row per trial: hyperparameters, metrics with spread, seconds, state, reason
trials/<label>/record.json the same for one trial, with its accuracy matrices
trials/<label>/accuracy.csv, learning_curve.csv
best.json                  the best configuration and the command that reruns it
attempts.csv               of the protocol continual, instead of trials
final.json, final.csv, final_accuracy.csv
                           the choice and its references on fresh seeds, when test data was opened
front.csv                  of several objectives
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from clsearch.core.datasets import Source
from clsearch.core.files import write_atomically
from clsearch.tuning.options import Protocol
from clsearch.tuning.plan import Plan

PACKAGES = ("clsearch", "ray", "optuna", "mlflow", "torch", "torchvision", "numpy", "pandas")


@dataclass(frozen=True)
class TrialRecord:
    """A trial as it stands: waiting, running, finished, failed or unfinished (cut off), with the reason.

    number: Optuna's, None for a reference. values: the searched hyperparameters. settings: all of them, flat.
    metrics: name -> mean over seeds, `<name>/std` its spread, after `tasks_learned` tasks.
    accuracy: R [M][T+1][T] with None where not measured. curve: [E][M][K] with its columns and [E][2] (task, epoch).
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
    metrics: dict[str, float] = field(default_factory=dict)
    accuracy: list[Any] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    curve: list[Any] = field(default_factory=list)
    epochs: list[Any] = field(default_factory=list)


def metrics_of(result: dict[str, Any]) -> dict[str, float]:
    """The metrics in a result of Ray Tune: our names, finite values."""
    names = ("average_", "learning_accuracy", "backward_", "forward_", "accuracy/", "forgetting/", "train/")
    return {
        k: float(v)
        for k, v in result.items()
        if k.startswith(names) and isinstance(v, int | float) and math.isfinite(v)
    }


def described(source: Source) -> dict[str, Any]:
    """What study.json says of the data: which it is, and where the user grouped its classes, how."""
    groups = source.groups and [[source.classes[c] for c in group] for group in source.groups]
    return {
        "source": source.name,
        "shape": list(source.shape),
        "classes": list(source.classes),
        "groups": groups,
        "identity": source.identity or None,
    }


class Results:
    """Writes the record of one study; each file is whole at any moment."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = plan.folder

    def begin(self) -> None:
        """Write study.json."""
        plan = self.plan
        write_json(
            self.folder / "study.json",
            {
                "question": plan.question,
                "algorithm": plan.algorithm,
                "command": plan.command,
                "config": {k: v for k, v in plan.config.flat().items() if k not in plan.space},
                "space": {name: asdict(r) for name, r in plan.space.items()},
                "data": described(plan.config.source),
                "preset": plan.options.preset,
                "references": list(plan.references),
                "protocol": plan.protocol.value,
                "tasks": list(plan.tasks),
                "learning_rates": list(plan.rates) if plan.protocol is Protocol.CONTINUAL else None,
                "report_benchmark": None if plan.report is None else plan.report.benchmark,
                "reported_tasks": list(plan.reported),
                "objectives": list(plan.objectives),
                "trials": plan.trials,
                "seeds": list(plan.seeds),
                "report_seeds": list(plan.report_seeds) if plan.options.final else [],
                "sampler": plan.options.sampler,
                "sampler_seed": plan.options.sampler_seed,
                **made_with(),
            },
        )

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
        curve = [
            [seed, *at, *numbers]
            for at, members in zip(record.epochs, record.curve, strict=True)
            for seed, numbers in zip(record.seeds, members, strict=True)
        ]
        columns = ["seed", "task", "epoch", *record.columns]
        self._csv(folder / "learning_curve.csv", pd.DataFrame(curve, columns=columns))
        content = {k: v for k, v in asdict(record).items() if k not in ("curve", "epochs", "columns")}
        write_json(folder / "record.json", content)

    def write_table(self, name: str, records: list[TrialRecord]) -> None:
        """Write <name>.csv, a row per trial. Only finished trials have metrics there: a mean over few tasks must not
        be sorted among means over all.
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
                "reason": r.reason,
            }
            for r in records
        ]
        always = ["label", "number", "algorithm", "state", *self.plan.space, "tasks_learned", "seconds", "reason"]
        self._csv(self.folder / f"{name}.csv", pd.DataFrame(rows, columns=None if rows else always))

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a file of the study's folder."""
        write_json(self.folder / name, content)

    def write_csv(self, name: str, table: pd.DataFrame) -> None:
        """Write a file of the study's folder."""
        self._csv(self.folder / name, table)

    def _csv(self, path: Path, table: pd.DataFrame) -> None:
        write_atomically(path, table.to_csv(index=False).encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file of JSON, atomically; NaN and infinity become null."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())


def made_with() -> dict[str, Any]:
    """What a record was made with: versions, commit and time."""
    return {
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "commit": code_version(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def finite(content: Any) -> Any:
    """Content for JSON: NaN and infinity become null."""
    if isinstance(content, dict):
        return {k: finite(v) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [finite(v) for v in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@cache
def code_version() -> str:
    """The commit of a checkout (`+changes` where it is not clean), else the package's version."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", os.path.basename(__file__)):
            return version("clsearch")
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return version("clsearch")
