"""Train trials on further seeds, and join what they measure to their records.

The state of an ended trial is gone, so its configuration starts anew on the further seeds, in a Ray task with a
checkpoint of its own. A killed study goes on from there; a record has all further seeds, or none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch

from clsearch.common.files import remove_file
from clsearch.common.formatting import count_of, last_line
from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Data
from clsearch.execution.messages import TrialReport
from clsearch.execution.ray_tasks import fetch, side_by_side, unlearning_references
from clsearch.execution.resources import worker_location
from clsearch.execution.trainable import measured_against
from clsearch.planning.plan import Plan
from clsearch.records.further_seeds import STATE_FILE, missing_seeds
from clsearch.records.store import RecordStore
from clsearch.records.study_file import FIRST_TASKS
from clsearch.reporting.progress import ProgressLine
from clsearch.training.loop import DivergedError, learn_task
from clsearch.training.retraining import References
from clsearch.training.state import load_latest, previous_path
from clsearch.training.trial_setup import build_trial


def train_further_seeds(plan: Plan, data: ray.ObjectRef, store: RecordStore, line: ProgressLine) -> None:
    """Train the trials that are worth it, and the references, on the further seeds of a study.

    Args:
        plan: The study; all trials of its search have ended.
        data: A reference to its benchmark's data.
        store: Its records.
        line: Shows the current step.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed. What was joined is kept, and checkpoints of the others.
        RayDiedError: Ray died.
        OSError: The records cannot be written.
    """
    while missing := missing_seeds(plan, store.trials(), store.references()):
        against = {
            seeds: unlearning_references(plan, seeds, data, line.show_step) for seeds in dict.fromkeys(missing.values())
        }
        jobs = [job_of(plan, store, label, seeds, data, against[seeds]) for label, seeds in missing.items()]
        labels = list(missing)
        for done, (index, result) in enumerate(side_by_side(plan, train_in_worker, jobs), start=1):
            label, seeds = labels[index], missing[labels[index]]
            try:
                report: TrialReport = fetch(result)
                failed = report.failed
            except ray.exceptions.RayError as error:  # its worker died, or ran out of memory
                failed = last_line(error)
            if failed:
                store.note_failed_seeds(label, f"seeds {' '.join(map(str, seeds))}: {failed}")
            else:
                store.join_seeds(label, report, seeds)
            for path in state_files(store, label):
                remove_file(path)
            line.show_step(f"further seeds: {done}/{count_of(len(jobs), 'training')}", moving=done < len(jobs))


def state_files(store: RecordStore, label: str) -> tuple[Path, Path]:
    """Return the checkpoint of a trial's further seeds, and the one before it."""
    path = store.writer.trial_folder(label) / STATE_FILE
    return path, previous_path(path)


def job_of(
    plan: Plan,
    store: RecordStore,
    label: str,
    seeds: tuple[int, ...],
    data: ray.ObjectRef,
    references: ray.ObjectRef | None,
) -> Sequence[Any]:
    """Make the arguments of `train_in_worker` for a trial or reference."""
    record = store.records[label]
    config = plan.trial_config(record.values, record.algorithm)
    shared = plan.folder.parent / FIRST_TASKS if "learning_rate" not in plan.space else None
    return (label, config, seeds, plan.tasks, state_files(store, label)[0], shared, data, references)


def train_in_worker(
    device: torch.device,
    label: str,
    config: TrialConfig,
    seeds: Sequence[int],
    tasks: Sequence[int],
    state_file: Path,
    first_tasks: Path | None,
    data: Data,
    references: References | None,
) -> TrialReport:
    """Train a configuration on some seeds, from its last checkpoint if there is one.

    Args:
        device: Where to train.
        label: The trial's name.
        config: Its configuration.
        seeds: The seeds.
        tasks: Numbers of the tasks to learn.
        state_file: Its checkpoint, replaced after each task.
        first_tasks: Folder in which trials share the first task; None: they do not share.
        data: The training data.
        references: The models that unlearning is measured against.
    """
    trial = replace(build_trial(config, seeds, device, data, tasks), prefixes=first_tasks)
    trial = measured_against(trial, references, data)
    fresh, failed = trial.initial_state(), ""
    state = load_latest(state_file, fresh, len(tasks), device, foreign=True)[0] or fresh
    try:
        while state.tasks_learned < len(tasks):
            state = learn_task(trial, state)
            state.save(state_file)
    except DivergedError as error:
        failed = str(error)
    report = TrialReport(label, tasks_learned=state.tasks_learned, done=True, place=worker_location(), failed=failed)
    return replace(
        report,
        seconds=state.seconds,
        shared_seconds=state.shared,
        accuracy=state.accuracy.numpy(),
        unlearning={name: values.numpy() for name, values in state.unlearning.items()},
        columns=trial.columns,
        curve=state.curve.numpy(),
        epochs=state.epochs.numpy(),
    )
