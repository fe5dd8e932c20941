"""Messages between the driver and the trials of Ray Tune.

The driver validates a configuration once and sends it as a `CohortRequest`, under one key of Ray Tune's config. After
each step the worker answers with a `TrialReport` for each configuration that advanced, under one key of the result. A
report contains the accuracy matrices R and no metrics: `TrialReport.metrics` computes them on demand, in the driver. A
trainable that is used without the driver takes a flat config: `request_in` converts it into a request, and
`TrialReport.as_result` converts its report into a flat result with metrics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Source
from clsearch.methods.registry import configure
from clsearch.records.trial_metrics import metrics_after

REQUEST = "request"
"""Key of a `CohortRequest` in Ray Tune's config of a trial."""

REPORTS = "reports"
"""Key of a list of `TrialReport` in the result of a trial that got a request: the configurations that advanced."""

OUT_OF_MEMORY = "out_of_memory"
"""Key in a flat result: the trial ran out of memory, which says nothing about the searched values."""

DEFAULT_SEEDS = (0, 1, 2)
"""Seeds of a flat config that names none."""


@dataclass(frozen=True)
class TrialRequest:
    """One configuration to train.

    Attributes:
        label: Its name in folders and reports.
        config: The validated configuration.
        state_file: Its checkpoint, replaced atomically after each task; a worker that finds one resumes from it. None:
            only Ray's checkpoints are used.
    """

    label: str
    config: TrialConfig
    state_file: Path | None = None


@dataclass(frozen=True, repr=False)
class CohortRequest:
    """The work of one trial of Ray Tune: one configuration, or several that train in one stack of networks and differ
    in numbers only.

    Attributes:
        trials: The configurations.
        seeds: The seeds of each configuration.
        tasks: Numbers of the tasks to learn, in this order; None: all.
        device: `cpu`, or `cuda` for the GPU that Ray assigned.
        first_tasks: Folder in which trials share the first task, see `training.first_task_cache`; None: they do not
            share.
    """

    trials: tuple[TrialRequest, ...]
    seeds: tuple[int, ...]
    tasks: tuple[int, ...] | None = None
    device: str = "cpu"
    first_tasks: Path | None = None

    @property
    def labels(self) -> list[str]:
        """The labels of its configurations."""
        return [trial.label for trial in self.trials]

    @property
    def label(self) -> str:
        """The name of the cohort: the first label, and the number of others."""
        first, *others = self.labels
        return f"{first}+{len(others)}" if others else first

    def only(self, labels: Collection[str]) -> CohortRequest:
        """Return the request with only these configurations."""
        return replace(self, trials=tuple(trial for trial in self.trials if trial.label in labels))

    def __repr__(self) -> str:
        """Return the label, because Ray Tune uses this text as a tag."""
        return self.label

    def __deepcopy__(self, memo: dict[int, Any]) -> CohortRequest:
        """Return itself: the request is immutable, and Ray Tune copies configs several times."""
        return self


def request_in(config: Mapping[str, Any], algorithm: str, source: Source | None) -> CohortRequest:
    """Return the request in Ray Tune's config of a trial, or validate a flat config and convert it.

    Args:
        config: Ray Tune's config.
        algorithm: The algorithm, if a flat config names none.
        source: The source of the data, if they are loaded already.

    Raises:
        ConfigError: A flat config has an unknown key or a value that breaks a rule.
    """
    if REQUEST in config:
        request: CohortRequest = config[REQUEST]
        return request
    settings = dict(config)
    label, state_file = settings.pop("label", None), settings.pop("state_file", None)
    seeds, device = settings.pop("seeds", DEFAULT_SEEDS), settings.pop("device", "cpu")
    tasks, first_tasks = settings.pop("sequence", None), settings.pop("prefixes", None)
    trial_config = configure(settings.pop("algorithm", algorithm), settings, source)
    return CohortRequest(
        (TrialRequest(label or "", trial_config, None if state_file is None else Path(state_file)),),
        tuple(seeds),
        None if tasks is None else tuple(tasks),
        device,
        None if first_tasks is None else Path(first_tasks),
    )


@dataclass(frozen=True, eq=False)
class TrialReport:
    """The progress of one configuration after a step.

    Attributes:
        label: Its name.
        tasks_learned: Number of learned tasks.
        done: True if the configuration has ended.
        seconds: Training time so far.
        shared_seconds: Training time of another trial for the first task, which this one reused.
        place: The node, and the GPU, that it runs on.
        failed: Why it ended early; "" if it did not.
        out_of_memory: True if it failed for lack of memory, which says nothing about the searched values.
        unwritable: Why its state could not be saved; "" if it was.
        note: A line for the user, about a damaged file; "" if there is none.
        accuracy, unlearning, columns, curve, epochs: See `records.trial_metrics.Measurements`.
    """

    label: str
    tasks_learned: int = 0
    done: bool = False
    seconds: float = 0.0
    shared_seconds: float = 0.0
    place: str = ""
    failed: str = ""
    out_of_memory: bool = False
    unwritable: str = ""
    note: str = ""
    accuracy: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0)))
    unlearning: dict[str, np.ndarray] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    curve: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0)))
    epochs: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Means over seeds and their spread after `tasks_learned` tasks, see `records.trial_metrics.metrics_after`."""
        return metrics_after(self, self.tasks_learned)

    def measurements(self) -> dict[str, Any]:
        """Return the arrays as nested lists, in the form of a trial's record."""
        return {
            "accuracy": self.accuracy.tolist(),
            "unlearning": {name: values.tolist() for name, values in self.unlearning.items()},
            "columns": list(self.columns),
            "curve": self.curve.tolist(),
            "epochs": self.epochs.tolist(),
        }

    def ended(self) -> TrialReport:
        """Return the report of the same configuration, stopped here."""
        return self._with_same_metrics(replace(self, done=True))

    def without_measurements(self) -> TrialReport:
        """Return the report with its metrics and without the arrays."""
        kept = {name: value for name, value in vars(self).items() if name not in ("metrics", *self.measurements())}
        return self._with_same_metrics(TrialReport(**kept))

    def as_result(self) -> dict[str, Any]:
        """Return a flat result for users of Ray Tune: metrics by name, the progress, and the arrays under `record`.

        It has `failed` and `out_of_memory` only if the trial failed.
        """
        problems: dict[str, Any] = {"failed": self.failed} if self.failed else {}
        problems |= {OUT_OF_MEMORY: True} if self.out_of_memory else {}
        problems |= {"unwritable": self.unwritable} if self.unwritable else {}
        problems |= {"note": self.note} if self.note else {}
        return {
            **self.metrics,
            "tasks_learned": self.tasks_learned,
            "done": self.done,
            "seconds": self.seconds,
            "shared_seconds": self.shared_seconds,
            "record": self.measurements(),
            "place": self.place,
            **problems,
        }

    def _with_same_metrics(self, other: TrialReport) -> TrialReport:
        vars(other)["metrics"] = self.metrics
        return other


def reports_in(result: Mapping[str, Any]) -> dict[str, TrialReport]:
    """Return label -> report of the configurations in a result."""
    return {report.label: report for report in result.get(REPORTS, ())}


def replace_reports(result: Mapping[str, Any], reports: Collection[TrialReport]) -> None:
    """Replace the reports of the same labels, for everyone who reads the result later.

    Ray Tune passes the same list to its scheduler, its searcher and its callbacks, one after another.
    """
    changed = {report.label: report for report in reports}
    held: list[TrialReport] = result[REPORTS]
    held[:] = [changed.get(report.label, report) for report in held]
