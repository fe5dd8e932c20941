"""Trainables: a trial of Ray Tune is one configuration on its seeds; one step is one learned task.

`Tuner(LwFTrainable, param_space={"distillation_factor": tune.loguniform(1e-2, 1e2), "epochs": 10})` works as it is.
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
from clsearch.execution.messages import COHORT, OUT_OF_MEMORY, UNBUILT, report
from clsearch.execution.resources import Share, place, remedy, short_of_memory
from clsearch.methods.base import Method
from clsearch.methods.registry import BUILT_IN, accept, configure
from clsearch.training.cohorts import initial_states, learn_together
from clsearch.training.loop import DivergedError
from clsearch.training.retraining import References, placed, retrained
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import Run, build_cohort

STATE_FILE = "state.pt"


@dataclass
class Member:
    """A configuration of a trial. file: its own checkpoint, replaced atomically after each task. told: whether the
    driver has heard of its state. over: whether nothing more comes of it.
    """

    label: str
    config: TrialConfig
    file: Path | None
    state: TrialState
    told: bool
    over: bool = False

    @property
    def dropped(self) -> bool:
        """Whether the driver has removed the checkpoint, which was written after each task."""
        return self.file is not None and self.state.tasks_learned > 0 and not self.file.exists()

    def saved(self) -> dict[str, Any]:
        """Write the checkpoint; gives what to report where it can't be written."""
        try:
            if self.file is not None:
                self.state.save(self.file)
        except OSError as error:
            return {"unwritable": str(error)}
        return {}


class ContinualTrainable(Trainable):
    """A trial. Its config is flat: every setting of the algorithm, and

    seeds: list of int, default [0, 1, 2]. device: cpu (default), or cuda for the GPU that Ray gave.
    state_file: where the trial keeps its own checkpoint, replaced atomically after each task; a trial that finds one
    goes on from it. Without it, Ray's checkpoints are the only ones.
    algorithm: instead of the class's own (so that a study's references run in the same actors).
    sequence: numbers of the tasks that are learned; default all.
    prefixes: folder where trials leave the first task for each other, see `training.first_task_cache`; default: they
    don't.
    label: a name for the driver.
    cohort: list of {label, values, state_file}: configurations that train together, which differ from the settings in
    their values; a result then has one per configuration that moved (`trial_results.COHORT`). Those furthest behind
    move first. One whose state file is removed, as the driver does at a trial's end, drops out at the next task.
    """

    algorithm = "finetuning"

    def setup(
        self,
        config: dict[str, Any],
        data: Data | ray.ObjectRef | None = None,
        own: Mapping[str, Method] | None = None,
        references: References | ray.ObjectRef | None = None,
    ) -> None:
        """data: of the benchmark's source, or a reference to it, as `tune.with_parameters(cls, data=...)` shares it
        between the workers of a node; None: each worker reads its own. own: algorithms that the driver registered.
        references: what unlearning is measured against; None: each trial trains its own.
        """
        accept(own or {})
        self.data: Data | None = ray.get(data) if isinstance(data, ray.ObjectRef) else data
        self.references = references
        settings = dict(config)
        alone = {name: settings.pop(name, None) for name in ("label", "state_file")} | {"values": {}}
        self.seeds, self.kind = settings.pop("seeds", [0, 1, 2]), settings.pop("device", "cpu")
        self.sequence, prefixes = settings.pop("sequence", None), settings.pop("prefixes", None)
        self.prefixes = None if prefixes is None else Path(prefixes)
        self.together = COHORT in settings
        wanted, algorithm = settings.pop(COHORT, [alone]), settings.pop("algorithm", self.algorithm)
        resources = self.trial_resources.required_resources if self.trial_resources else {}
        self.share = Share(math.floor(resources.get("CPU", 1)), resources.get("GPU", 0))
        self.short, self.place = False, place()
        source = None if self.data is None else self.data.source
        configs = [configure(algorithm, settings | each["values"], source) for each in wanted]
        self.cohort: list[Member] = []
        self.labels = [each["label"] for each in wanted]
        try:
            self.device = self.share.take(self.kind)
            self.run = self._run_of(configs)
            for each, made, fresh in zip(wanted, configs, initial_states(self.run, configs), strict=True):
                file = None if each["state_file"] is None else Path(each["state_file"])
                state = fresh
                if file is not None and file.exists():
                    state = TrialState.load(file, fresh.fingerprint, self.device)
                self.cohort.append(Member(each["label"], made, file, state, told=state.tasks_learned == 0))
            self.trained = self.cohort
        except Exception as error:
            self.short = short_of_memory(error)
            if not self.short:
                raise

    @property
    def state(self) -> TrialState:
        """Of the first configuration."""
        return self.cohort[0].state

    def _run_of(self, configs: Sequence[TrialConfig]) -> Run:
        run = build_cohort(configs, self.seeds, self.device, self.data, self.sequence)
        return measured_against(replace(run, prefixes=self.prefixes), self.references, self.data)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._release()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Learn the next task. One for which the memory does not suffice ends the trial, not the worker."""
        try:
            if not self.short:
                return self._result(self._moved())
        except Exception as error:
            if not short_of_memory(error):
                raise
        why = remedy(self.kind, self.share.gpus, len(self.labels))
        out = {"failed": why, OUT_OF_MEMORY: True, "done": True}
        known = {m.label: report(self.run, m.state) for m in self.cohort if not m.over} if not self.short else {}
        ended = {m.label for m in self.cohort if m.over}
        left = {label: known.get(label, UNBUILT) | out for label in self.labels if label not in ended}
        self._release()
        return self._result(left, done=True)

    def _result(self, moved: dict[str, dict[str, Any]], done: bool = False) -> dict[str, Any]:
        """What is told to Ray Tune, of what is told of each configuration."""
        if not self.together:
            return next(iter(moved.values())) | {"place": self.place}
        own = [result | {"label": label, "place": self.place} for label, result in moved.items()]
        return {COHORT: own, "done": done or all(member.over for member in self.cohort)}

    def _release(self) -> None:
        """Give the memory of a trial back, of which a GPU's is waited for by others."""
        for name in ("run", "cohort", "trained"):
            vars(self).pop(name, None)
        if torch.cuda.is_initialized():
            gc.collect()
            torch.cuda.empty_cache()

    def _moved(self) -> dict[str, dict[str, Any]]:
        """Let those furthest behind learn their next task; what is told of each, by label."""
        if untold := [member for member in self.cohort if not member.told]:
            return {member.label: self._told(member) for member in untold}
        for member in self.cohort:
            member.over = member.over or (self.together and member.dropped)
        going = [member for member in self.cohort if not member.over]
        if not going:  # a bare trial that is asked once more
            return {member.label: self._told(member) for member in self.cohort}
        least = min(member.state.tasks_learned for member in going)
        group = [member for member in going if member.state.tasks_learned == least]
        if group != self.trained:
            self.run, self.trained = self._run_of([member.config for member in group]), group
        found = learn_together(self.run, [member.state for member in group])
        return {member.label: self._after(member, new) for member, new in zip(group, found, strict=True)}

    def _after(self, member: Member, new: TrialState | DivergedError) -> dict[str, Any]:
        if isinstance(new, DivergedError):
            member.over = True
            return report(self.run, member.state) | {"failed": str(new), "done": True}
        member.state = new
        return self._told(member) | member.saved()

    def _told(self, member: Member) -> dict[str, Any]:
        """What is told of a configuration as it stands; the driver has heard of it then."""
        told = report(self.run, member.state)
        member.told, member.over = True, told["done"]
        return told

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        for number, member in enumerate(self.cohort):
            member.state.save(Path(checkpoint_dir) / checkpoint_name(number))

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        for number, member in enumerate(self.cohort):
            path = Path(checkpoint_dir) / checkpoint_name(number)
            member.state = TrialState.load(path, member.state.fingerprint, self.device)


def checkpoint_name(number: int) -> str:
    """The file of a cohort's n-th configuration in Ray's checkpoint."""
    return f"{number}-{STATE_FILE}" if number else STATE_FILE


def measured_against(run: Run, references: References | ray.ObjectRef | None, data: Data | None) -> Run:
    """The run with the models that unlearning is measured against, trained here where they are not given."""
    if not run.config.requests:
        return run
    found: References = ray.get(references) if isinstance(references, ray.ObjectRef) else references or {}
    if not found:
        found = retrained(run.config, run.seeds[: run.seeds_each], run.device, data)
    repeated = {
        at: {name: torch.cat([value] * run.configurations) for name, value in params.items()}
        for at, params in found.items()
    }
    return replace(run, references=placed(repeated, run.device))


@cache
def trainable_of(algorithm: str) -> type[ContinualTrainable]:
    """The Trainable of a method, at home in `clsearch.trainables`; of a registered method, the general one."""
    method = BUILT_IN.get(algorithm)
    if method is None:
        return ContinualTrainable
    own = {"algorithm": algorithm, "__doc__": method.summary, "__module__": "clsearch.trainables"}
    return type(method.trainable_name, (ContinualTrainable,), own)
