"""Train a recorded trial again on this machine, and compare the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from clsearch.common.errors import ConfigError, Refusal
from clsearch.execution.data_loading import load_training
from clsearch.execution.resources import WorkerResources
from clsearch.methods.registry import configure
from clsearch.records.study_record import find_record, read_study
from clsearch.records.trial_metrics import accuracy_matrices, unlearning_measurements
from clsearch.records.trials import TrialRecord, group_sizes
from clsearch.records.writer import provenance
from clsearch.training.loop import DivergedError, learn_task
from clsearch.training.retraining import retrain
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import TrialSetup, build_trial


@dataclass(frozen=True)
class Rerun:
    """A trial that was trained again.

    Attributes:
        record: The record of the original.
        accuracy: R [M, T+1, T] of the repetition.
        unlearning: Measurements of unlearning in the repetition.
        reason: Why it ended early; "" if it did not.
        differences: Differences of the software, name -> (then, now).
    """

    record: TrialRecord
    accuracy: np.ndarray
    unlearning: dict[str, np.ndarray]
    reason: str
    differences: dict[str, tuple[str, str]]

    @property
    def equal(self) -> bool:
        """True if the matrices equal those of the record, bit for bit, and both ended the same way."""
        then, now = self._both()
        same = then.keys() == now.keys() and all(
            np.array_equal(now[name], value, equal_nan=True) for name, value in then.items()
        )
        return same and bool(self.reason) == (self.record.state == "failed")

    @property
    def furthest(self) -> float:
        """The largest difference of an accuracy."""
        then, now = self._both()
        shared = [name for name in then if name in now and name != "distance"]
        return max(float(np.nan_to_num(abs(now[name] - then[name])).max()) for name in shared)

    def _both(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return all matrices of the original and of the repetition."""
        return {"R": accuracy_matrices(self.record)} | unlearning_measurements(self.record), {
            "R": self.accuracy
        } | self.unlearning


def rerun(
    folder: Path, trial: str, data_root: Path | None, device: str, cpus: int, tell: Callable[[str], None]
) -> Rerun:
    """Train a trial of a study again on its seeds, in this process.

    Args:
        folder: The study's folder.
        trial: The number of a trial, or the algorithm of a reference.
        data_root: The folder of the data, if it has moved.
        device: `cpu` or `cuda`.
        cpus: Number of threads.
        tell: Called with a message after each task.

    Raises:
        ConfigError: There is no such trial, or its data cannot be read.
    """
    study = read_study(folder)
    record = find_record(study, trial)
    if not record.accuracy:
        text = f"trial: must have an accuracy matrix to compare with; got {trial}, {record.state}: {record.reason}"
        raise ConfigError([Refusal("trial-has-matrix", text)])
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError([Refusal("cuda-needs-gpu", "device: must be available to torch here; got cuda")])
    settings = record.settings | ({} if data_root is None else {"data_root": data_root})
    config = configure(record.algorithm, settings)
    if missing := config.source.missing_files(config.data_root):
        text = f"data_root: must hold {', '.join(missing)} for {config.benchmark}; got {config.data_root}"
        raise ConfigError([Refusal("data-root-complete", text)])
    data = load_training(config, download=False)
    where = WorkerResources(cpus, 0).apply(device)
    runs = [
        replace(run, references=retrain(config, run.seeds, where, data))
        for run in (build_trial(config, seeds, where, data, study.study["tasks"]) for seeds in grouped_seeds(record))
    ]
    learned = [learn_tasks(run, record.tasks_learned + (record.state == "failed"), tell) for run in runs]
    reason = next((why for _, why in learned if why), "")
    accuracy = torch.cat([state.accuracy for state, _ in learned]).numpy()
    unlearning = {
        name: torch.cat([state.unlearning[name] for state, _ in learned]).numpy() for name in learned[0][0].unlearning
    }
    now = provenance()
    then = study.study["versions"] | {"commit": study.study["commit"]}
    found = {"commit": now["commit"], **now["versions"]}
    changed = {name: (str(then.get(name)), str(found[name])) for name in found if then.get(name) != found[name]}
    return Rerun(record, accuracy, unlearning, reason, changed)


def grouped_seeds(record: TrialRecord) -> Iterator[tuple[int, ...]]:
    """Yield the seeds of a trial that trained together: sums depend on the stack of networks."""
    position = 0
    for size in group_sizes(record):
        yield record.seeds[position : position + size]
        position += size


def learn_tasks(trial: TrialSetup, tasks: int, tell: Callable[[str], None]) -> tuple[TrialState, str]:
    """Learn some tasks; return the last valid state and why training diverged, or ""."""
    state = trial.initial_state()
    while state.tasks_learned < min(tasks, len(trial.benchmark.tasks)):
        try:
            state = learn_task(trial, state)
        except DivergedError as error:
            return state, str(error)
        tell(f"task {state.tasks_learned}/{tasks} learned")
    return state, ""


def describe_rerun(found: Rerun) -> list[str]:
    """Describe the comparison in sentences."""
    record = found.record
    name = f"trial {record.number}" if record.number is not None else f"reference {record.algorithm}"
    how = f"{len(record.seeds)} seed{'s' * (len(record.seeds) > 1)}, {record.tasks_learned} tasks"
    lines = [f"{name}: {'equal, bit for bit' if found.equal else 'not equal'} ({how})"]
    if not found.equal:
        lines.append(f"accuracies differ by up to {100 * found.furthest:.2f} points")
    if found.reason or record.state == "failed":
        lines.append(f"then: {record.reason or record.state}; now: {found.reason or 'it continued'}")
    for part, (then, now) in found.differences.items():
        lines.append(f"{part}: {then} then, {now} now")
    if not found.equal:
        if record.cohort > 1:
            lines.append(f"it was trained in a cohort of {record.cohort}; training alone rounds differently")
        lines.append(
            f"it was trained on {record.place or 'an unnamed machine'}; floating-point summation order differs on "
            f"other devices and with other numbers of threads (set --cpus to the study's --cpus-per-trial)"
        )
    return lines
