"""Trainables: a trial of Ray Tune is one configuration on its seeds; one step is one learned task.

`Tuner(LwFTrainable, param_space={"distillation_factor": tune.loguniform(1e-2, 1e2), "epochs": 10})` works as it is.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.tune import Trainable

from clsearch.core import metrics
from clsearch.core.config import TrialConfig
from clsearch.core.datasets import Data
from clsearch.core.loop import DivergedError, learn_task
from clsearch.core.registry import Own, accept
from clsearch.core.retraining import References, placed, retrained
from clsearch.core.run import Run, build_run
from clsearch.core.state import TrialState
from clsearch.tuning.placement import Share, place, remedy, short_of_memory

STATE_FILE = "state.pt"

OUT_OF_MEMORY = "out_of_memory"
"""In a result: the trial failed for its size, which says nothing of the searched values."""

UNBUILT = {
    "tasks_learned": 0,
    "seconds": 0.0,
    "shared_seconds": 0.0,
    "record": {name: [] for name in ("accuracy", "columns", "curve", "epochs")} | {"unlearning": {}},
}
"""Result of a trial that could not be built."""


class ContinualTrainable(Trainable):
    """A trial. Its config is flat: every setting of the algorithm, and

    seeds: list of int, default [0, 1, 2]. device: cpu (default), or cuda for the GPU that Ray gave.
    state_file: where the trial keeps its own checkpoint, replaced atomically after each task; a trial that finds one
    goes on from it. Without it, Ray's checkpoints are the only ones.
    algorithm: instead of the class's own (so that a study's references run in the same actors).
    sequence: numbers of the tasks that are learned; default all.
    prefixes: folder where trials leave the first task for each other, see `clsearch.core.prefix`; default: they don't.
    label: a name for the driver, not read here.
    """

    algorithm = "finetuning"

    def setup(
        self,
        config: dict[str, Any],
        data: Data | ray.ObjectRef | None = None,
        own: Mapping[str, Own] | None = None,
        references: References | ray.ObjectRef | None = None,
    ) -> None:
        """data: of the benchmark's source, or a reference to it, as `tune.with_parameters(cls, data=...)` shares it
        between the workers of a node; None: each worker reads its own. own: algorithms that the driver registered.
        references: what unlearning is measured against; None: each trial trains its own.
        """
        accept(own or {})
        held: Data | None = ray.get(data) if isinstance(data, ray.ObjectRef) else data
        settings = dict(config)
        settings.pop("label", None)
        seeds = settings.pop("seeds", [0, 1, 2])
        self.kind = settings.pop("device", "cpu")
        sequence = settings.pop("sequence", None)
        state_file, prefixes = settings.pop("state_file", None), settings.pop("prefixes", None)
        algorithm = settings.pop("algorithm", self.algorithm)
        resources = self.trial_resources.required_resources if self.trial_resources else {}
        self.share = Share(math.floor(resources.get("CPU", 1)), resources.get("GPU", 0))
        self.state_file = None if state_file is None else Path(state_file)
        self.short, self.place = False, place()
        configuration = TrialConfig.of(algorithm, settings, None if held is None else held.source)
        try:
            run = build_run(configuration, seeds, self.share.take(self.kind), held, sequence)
            run = replace(run, prefixes=None if prefixes is None else Path(prefixes))
            self.run = measured_against(run, references, held)
            if self.state_file is not None and self.state_file.exists():
                self.state = TrialState.load(self.state_file, self.run.fingerprint, self.run.device)
            else:
                self.state = self.run.initial_state()
            self.told = self.state.tasks_learned == 0
        except Exception as error:
            self.short = short_of_memory(error)
            if not self.short:
                raise

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._release()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Learn the next task. One for which the memory does not suffice ends the trial, not the worker."""
        try:
            if not self.short:
                return self._learned() | {"place": self.place}
        except Exception as error:
            if not short_of_memory(error):
                raise
        known = UNBUILT if self.short else report(self.run, self.state)
        self._release()
        why = remedy(self.kind, self.share.gpus)
        return known | {"failed": why, OUT_OF_MEMORY: True, "done": True, "place": self.place}

    def _release(self) -> None:
        """Give the memory of a trial back, of which a GPU's is waited for by others."""
        for name in ("run", "state"):
            vars(self).pop(name, None)
        if torch.cuda.is_initialized():
            gc.collect()
            torch.cuda.empty_cache()

    def _learned(self) -> dict[str, Any]:
        if not self.told:  # of the task that it goes on from, of which nobody may have heard
            self.told = True
            return report(self.run, self.state)
        if self.state.tasks_learned < len(self.run.benchmark.tasks):
            try:
                self.state = learn_task(self.run, self.state)
            except DivergedError as error:
                return report(self.run, self.state) | {"failed": str(error), "done": True}
            return report(self.run, self.state) | self._saved()
        return report(self.run, self.state)

    def _saved(self) -> dict[str, Any]:
        """Keep the state in the trial's own file; gives what to report where that can't be written."""
        try:
            if self.state_file is not None:
                self.state.save(self.state_file)
        except OSError as error:
            return {"unwritable": str(error)}
        return {}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self.state.save(Path(checkpoint_dir) / STATE_FILE)

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        self.state = TrialState.load(Path(checkpoint_dir) / STATE_FILE, self.run.fingerprint, self.run.device)


def measured_against(run: Run, references: References | ray.ObjectRef | None, data: Data | None) -> Run:
    """The run with the models that unlearning is measured against, trained here where they are not given."""
    if not run.config.requests:
        return run
    found: References = ray.get(references) if isinstance(references, ray.ObjectRef) else references or {}
    if not found:
        found = retrained(run.config, run.seeds, run.device, data)
    return replace(run, references=placed(found, run.device))


class FinetuningTrainable(ContinualTrainable):
    """Training on each task in turn, and nothing else: the lower reference."""

    algorithm = "finetuning"


class JointTrainable(ContinualTrainable):
    """At each task, fresh weights trained on all tasks so far together: the upper reference."""

    algorithm = "joint"


class IndependentTrainable(ContinualTrainable):
    """One network per task."""

    algorithm = "independent"


class LwFTrainable(ContinualTrainable):
    """Learning without Forgetting (Li & Hoiem 2017)."""

    algorithm = "lwf"


class EWCTrainable(ContinualTrainable):
    """Elastic weight consolidation (Kirkpatrick et al. 2017) with a free p-norm."""

    algorithm = "ewc"


class LwFEWCTrainable(ContinualTrainable):
    """Distillation and parameter change at once."""

    algorithm = "lwf_ewc"


class AmnesiacFinetuningTrainable(ContinualTrainable):
    """Finetuning that unlearns tasks on request (Graves et al. 2021)."""

    algorithm = "amnesiac_finetuning"


class AmnesiacLwFTrainable(ContinualTrainable):
    """Learning without Forgetting that unlearns tasks on request."""

    algorithm = "amnesiac_lwf"


class AmnesiacEWCTrainable(ContinualTrainable):
    """Elastic weight consolidation that unlearns tasks on request."""

    algorithm = "amnesiac_ewc"


TRAINABLES: dict[str, type[ContinualTrainable]] = {
    cls.algorithm: cls
    for cls in (
        FinetuningTrainable,
        JointTrainable,
        IndependentTrainable,
        LwFTrainable,
        EWCTrainable,
        LwFEWCTrainable,
        AmnesiacFinetuningTrainable,
        AmnesiacLwFTrainable,
        AmnesiacEWCTrainable,
    )
}
"""Algorithm -> its Trainable."""


def report(run: Run, state: TrialState) -> dict[str, Any]:
    """What a step tells the driver: numbers, and small arrays as lists.

    Metrics are means over seeds, `<name>/std` their standard deviations (n - 1; absent for one seed). `train/<name>`
    are of the last epoch. `record` holds R [M, T+1, T], what was measured of unlearning, and the learning curve
    [E, M, K].
    """
    t = state.tasks_learned
    values = metrics.summary(state.accuracy, t) | metrics.unlearning(state.unlearning, t) if t else {}
    if t:
        last = last_rows(state.curve).double()
        values |= {f"train/{name}": last[:, k] for k, name in enumerate(run.columns)}
    return metrics.over_seeds(values) | {
        "tasks_learned": t,
        "done": t == len(run.benchmark.tasks),
        "seconds": state.seconds,
        "shared_seconds": state.shared,
        "record": {
            "accuracy": state.accuracy.tolist(),
            "unlearning": {name: values.tolist() for name, values in state.unlearning.items()},
            "columns": list(run.columns),
            "curve": state.curve.tolist(),
            "epochs": state.epochs.tolist(),
        },
    }


def last_rows(curve: torch.Tensor) -> torch.Tensor:
    """[M, K] each member's last row of a learning curve [E, M, K]; one that ended earlier has NaN after it."""
    epochs, members = (torch.arange(n) for n in curve.shape[:2])
    last = torch.where(curve.isnan().all(2), -1, epochs[:, None]).amax(0)
    return curve[last, members]
