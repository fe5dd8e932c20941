"""Trainables: a trial of Ray Tune is one configuration on its seeds; one step is one learned task.

`Tuner(LwFTrainable, param_space={"distillation_factor": tune.loguniform(1e-2, 1e2), "epochs": 10})` is a complete use.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import ray
import torch
from ray.tune import Trainable

from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Data
from clsearch.execution.messages import (
    REPORTS,
    REQUEST,
    TrialReport,
    TrialRequest,
    request_in,
)
from clsearch.execution.resources import (
    WorkerResources,
    is_out_of_memory,
    memory_advice,
    worker_location,
)
from clsearch.methods.base import Method
from clsearch.methods.registry import BUILT_IN, accept
from clsearch.records.trials import STATE_FILE
from clsearch.training.cohorts import initial_states, learn_together
from clsearch.training.loop import DivergedError
from clsearch.training.retraining import References, move_references, retrain
from clsearch.training.state import TrialState, load_latest
from clsearch.training.trial_setup import TrialSetup, build_trials


@dataclass(eq=False)
class WorkerTrial:
    """A configuration in its worker.

    Attributes:
        request: The request that it trains.
        state: Its present state.
        state_reported: True if the driver knows the state.
        ended: True if it has ended.
        note: A line for the user, for its next report.
    """

    request: TrialRequest
    state: TrialState
    state_reported: bool
    ended: bool = False
    note: str = ""

    @property
    def dropped(self) -> bool:
        """True if the driver has removed the checkpoint, which is written after each task."""
        file = self.request.state_file
        return file is not None and self.state.tasks_learned > 0 and not file.exists()

    def save(self) -> str:
        """Write the checkpoint; return why it cannot be written, or ""."""
        try:
            if self.request.state_file is not None:
                self.state.save(self.request.state_file)
        except OSError as error:
            return str(error)
        return ""


class ContinualTrainable(Trainable):
    """A trial of Ray Tune.

    Its config is flat: every setting of the algorithm by its name, and

    - `seeds`: list of int, default [0, 1, 2].
    - `device`: `cpu` (default), or `cuda` for the GPU that Ray assigned.
    - `state_file`: path of the trial's own checkpoint, replaced atomically after each task; a trial that finds one
      resumes from it. Without it, only Ray's checkpoints are used.
    - `algorithm`: overrides the class's own.
    - `sequence`: numbers of the tasks to learn; default all.
    - `prefixes`: folder in which trials share the first task, see `training.first_task_cache`; default: they do not
      share.
    - `label`: a name for the caller.

    Its result is flat, too: every metric by its name (`average_accuracy`, ..., mean over seeds, and `<name>/std`),
    `tasks_learned`, `done`, `seconds`, `failed` if training diverged, and `record` with the accuracy matrices R.

    A study's driver sends a validated `messages.CohortRequest` instead, of one configuration or of several that train
    together; the result then has a `messages.TrialReport` of each configuration that advanced, without metrics, which
    the driver computes. The configurations that are furthest behind advance first. If the driver removes a state file,
    as it does at a trial's end, the configuration drops out at the next task.

    Attributes:
        algorithm: The method of the class.
    """

    algorithm = "finetuning"

    def setup(
        self,
        config: dict[str, Any],
        data: Data | ray.ObjectRef | None = None,
        own: Mapping[str, Method] | None = None,
        references: References | ray.ObjectRef | None = None,
    ) -> None:
        """Build the trial of a config, or note that the memory is too small.

        Args:
            config: See the class.
            data: The data of the benchmark's source, or a reference to them; `tune.with_parameters(cls, data=...)`
                shares them between the workers of a node. None: each worker loads its own.
            own: Methods that the driver registered.
            references: The models that unlearning is measured against; None: each trial trains its own.
        """
        accept(own or {})
        self.data: Data | None = ray.get(data) if isinstance(data, ray.ObjectRef) else data
        self.references = references
        self.asked_flat = REQUEST not in config
        self.request = request_in(config, self.algorithm, None if self.data is None else self.data.source)
        resources = self.trial_resources.required_resources if self.trial_resources else {}
        self.resources = WorkerResources(math.floor(resources.get("CPU", 1)), resources.get("GPU", 0))
        self.out_of_memory, self.place, self.notes = False, worker_location(), list[str]()
        try:
            self._build()
        except Exception as error:
            self.out_of_memory = is_out_of_memory(error)
            if not self.out_of_memory:
                raise

    def _build(self) -> None:
        """Set up the trial and each configuration's state, new or from its file."""
        self.cohort: list[WorkerTrial] = []
        self.device = self.resources.apply(self.request.device)
        configs = [trial.config for trial in self.request.trials]
        self.run = self._run_of(configs)
        for trial, fresh in zip(self.request.trials, initial_states(self.run, configs), strict=True):
            state, note = self._load(trial.state_file, fresh)
            self.cohort.append(WorkerTrial(trial, state, state_reported=state.tasks_learned == 0, note=note))
        self.trained = self.cohort

    def _load(self, path: Path | None, fresh: TrialState) -> tuple[TrialState, str]:
        """Load the newest whole state of a configuration, else return `fresh`; and a line about damaged ones.

        In a study the file is the trial's own, so a state of another configuration there is damage, too.
        """
        if path is None:
            return fresh, ""
        tasks = len(self.run.benchmark.tasks)
        state, problems = load_latest(path, fresh, tasks, self.device, foreign=not self.asked_flat)
        state = state or fresh
        where = f"continues after task {state.tasks_learned}" if state.tasks_learned else "is trained from the start"
        return state, f"its saved state was damaged ({'; '.join(problems)}), so it {where}" if problems else ""

    @property
    def state(self) -> TrialState:
        """The state of the first configuration."""
        return self.cohort[0].state

    def _run_of(self, configs: Sequence[TrialConfig]) -> TrialSetup:
        request = self.request
        trial = build_trials(configs, request.seeds, self.device, self.data, request.tasks)
        trial = replace(trial, prefixes=request.first_tasks, tell=self.notes.append)
        return measured_against(trial, self.references, self.data)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._release()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Learn the next task. Running out of memory ends the trial, not the worker."""
        try:
            if not self.out_of_memory:
                return self._result(self._advance())
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        reports = self._out_of_memory_reports()
        self._release()
        return self._result(reports, done=True)

    def _result(self, reports: list[TrialReport], done: bool = False) -> dict[str, Any]:
        """Make the result for Ray Tune: the reports, or a flat result if the config is flat."""
        if self.asked_flat:
            return reports[0].as_result()
        return {REPORTS: reports, "done": done or all(trial.ended for trial in self.cohort)}

    def _out_of_memory_reports(self) -> list[TrialReport]:
        """Report each configuration that had not ended, with its progress if it could be built."""
        advice = memory_advice(self.request.device, self.resources.gpus, len(self.request.trials))
        if self.out_of_memory:
            standing = [TrialReport(label, place=self.place) for label in self.request.labels]
        else:
            standing = [self._report(trial) for trial in self.cohort if not trial.ended]
        return [replace(report, failed=advice, out_of_memory=True, done=True) for report in standing]

    def _release(self) -> None:
        """Free the memory of a trial; others wait for a GPU's."""
        for name in ("run", "cohort", "trained"):
            vars(self).pop(name, None)
        if torch.cuda.is_initialized():
            gc.collect()
            torch.cuda.empty_cache()

    def _advance(self) -> list[TrialReport]:
        """Train the configurations that are furthest behind on their next task; return a report of each.

        A loaded state is reported before training continues, because the driver may not know it.
        """
        if unreported := [trial for trial in self.cohort if not trial.state_reported]:
            return [self._report_state(trial) for trial in unreported]
        for trial in self.cohort:
            trial.ended = trial.ended or (len(self.request.trials) > 1 and trial.dropped)
        going = [trial for trial in self.cohort if not trial.ended]
        if not going:  # a trial without a driver that is stepped once more
            return [self._report_state(trial) for trial in self.cohort]
        least = min(trial.state.tasks_learned for trial in going)
        group = [trial for trial in going if trial.state.tasks_learned == least]
        if group != self.trained:
            self.run, self.trained = self._run_of([trial.request.config for trial in group]), group
        outcomes = learn_together(self.run, [trial.state for trial in group])
        group[0].note = "; ".join([group[0].note] * bool(group[0].note) + self.notes)
        self.notes.clear()
        return [self._take_outcome(trial, outcome) for trial, outcome in zip(group, outcomes, strict=True)]

    def _take_outcome(self, trial: WorkerTrial, outcome: TrialState | DivergedError) -> TrialReport:
        if isinstance(outcome, DivergedError):
            trial.ended = True
            return replace(self._report(trial), failed=str(outcome), done=True)
        trial.state = outcome
        report = self._report_state(trial)
        return replace(report, unwritable=trial.save())

    def _report_state(self, trial: WorkerTrial) -> TrialReport:
        """Report the progress of a configuration, and note that the driver knows it."""
        report = self._report(trial)
        trial.state_reported, trial.ended, trial.note = True, report.done, ""
        return report

    def _report(self, trial: WorkerTrial) -> TrialReport:
        state = trial.state
        return TrialReport(
            trial.request.label,
            tasks_learned=state.tasks_learned,
            done=state.tasks_learned == len(self.run.benchmark.tasks),
            seconds=state.seconds,
            shared_seconds=state.shared,
            place=self.place,
            note=trial.note,
            accuracy=state.accuracy.numpy(),
            unlearning={name: values.numpy() for name, values in state.unlearning.items()},
            columns=self.run.columns,
            curve=state.curve.numpy(),
            epochs=state.epochs.numpy(),
        )

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        for number, trial in enumerate(self.cohort):
            trial.state.save(Path(checkpoint_dir) / checkpoint_name(number))

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        for number, trial in enumerate(self.cohort):
            path = Path(checkpoint_dir) / checkpoint_name(number)
            trial.state = TrialState.load(path, trial.state.fingerprint, self.device)


def checkpoint_name(number: int) -> str:
    """Return the file of a cohort's n-th configuration in Ray's checkpoint."""
    return f"{number}-{STATE_FILE}" if number else STATE_FILE


def measured_against(trial: TrialSetup, references: References | ray.ObjectRef | None, data: Data | None) -> TrialSetup:
    """Return the trial with the models that unlearning is measured against; train them here if they are not given."""
    if not trial.config.requests:
        return trial
    found: References = ray.get(references) if isinstance(references, ray.ObjectRef) else references or {}
    if not found:
        found = retrain(trial.config, trial.seeds[: trial.seeds_each], trial.device, data)
    repeated = {
        at: {name: torch.cat([value] * trial.configurations) for name, value in params.items()}
        for at, params in found.items()
    }
    return replace(trial, references=move_references(repeated, trial.device))


@cache
def trainable_of(algorithm: str) -> type[ContinualTrainable]:
    """Return the Trainable of a method, exported by `clsearch.trainables`; the general one for a registered method."""
    method = BUILT_IN.get(algorithm)
    if method is None:
        return ContinualTrainable
    own = {"algorithm": algorithm, "__doc__": method.summary, "__module__": "clsearch.trainables"}
    return type(method.trainable_name, (ContinualTrainable,), own)
