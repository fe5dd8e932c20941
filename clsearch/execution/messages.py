"""What the driver asks of a trial of Ray Tune, and what it hears back.

The driver validates a configuration once and sends it as a `CohortRequest`, under one key of Ray Tune's config. The
worker answers after each step with a `TrialReport` for each configuration that moved, under one key of the result. A
report has the accuracy matrices R and no metric: `TrialReport.metrics` computes them where they are wanted, which is
the driver. A trainable that is used without the driver, with a flat config, is the same underneath: its config becomes
a request at its edge (`request_in`), and its report a flat result with metrics (`TrialReport.as_result`).
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
"""In Ray Tune's config of a trial: a `CohortRequest`."""

REPORTS = "reports"
"""In a result of a trial that was asked with a request: a list of `TrialReport`, of the configurations that moved."""

OUT_OF_MEMORY = "out_of_memory"
"""In a flat result: the trial failed for its size, which says nothing of the searched values."""

DEFAULT_SEEDS = (0, 1, 2)
"""Of a flat config that names none."""


@dataclass(frozen=True)
class TrialRequest:
    """One configuration to train.

    label: its name in folders and reports. config: validated. state_file: its checkpoint, replaced atomically after
    each task; a worker that finds one resumes from it. None: Ray's checkpoints are the only ones.
    """

    label: str
    config: TrialConfig
    state_file: Path | None = None


@dataclass(frozen=True, repr=False)
class CohortRequest:
    """What a trial of Ray Tune trains: one configuration, or several in one stack of networks, which differ in numbers
    only.

    seeds: each configuration is trained on all of them. tasks: numbers of the tasks that are learned, in this order;
    None: all. device: cpu, or cuda for the GPU that Ray gave. first_tasks: folder where trials leave the first task
    for each other, see `training.first_task_cache`; None: they do not.
    """

    trials: tuple[TrialRequest, ...]
    seeds: tuple[int, ...]
    tasks: tuple[int, ...] | None = None
    device: str = "cpu"
    first_tasks: Path | None = None

    @property
    def labels(self) -> list[str]:
        """Of its configurations."""
        return [trial.label for trial in self.trials]

    @property
    def label(self) -> str:
        """Name of the whole: the first label, and how many more there are."""
        first, *others = self.labels
        return f"{first}+{len(others)}" if others else first

    def only(self, labels: Collection[str]) -> CohortRequest:
        """The request without the other configurations."""
        return replace(self, trials=tuple(trial for trial in self.trials if trial.label in labels))

    def __repr__(self) -> str:
        """Short, because Ray Tune makes a tag of it."""
        return self.label

    def __deepcopy__(self, memo: dict[int, Any]) -> CohortRequest:
        """Itself: nothing in it changes, and Ray Tune copies configs several times."""
        return self


def request_in(config: Mapping[str, Any], algorithm: str, source: Source | None) -> CohortRequest:
    """The request that Ray Tune's config of a trial holds, or that a flat one amounts to, which is validated here.

    config: of Ray Tune. algorithm: of a flat config that names none. source: of the data, where they are read already.

    Raises ConfigError where a flat config has an unknown key or a value against a rule.
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
    """How one configuration stands after a step.

    tasks_learned: how many. done: whether nothing more comes of it. seconds: spent in learning so far; shared_seconds:
    spent by another trial on the first task, which this one took over. place: the node, and the GPU, that it is on.
    failed: why it ended early, "" where it did not. out_of_memory: whether that was its size, which says nothing of the
    searched values. unwritable: why its state could not be saved, "" where it was.
    accuracy, unlearning, columns, curve, epochs: see `records.trial_metrics.Measurements`.
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
        """The arrays as nested lists, as a trial's record has them."""
        return {
            "accuracy": self.accuracy.tolist(),
            "unlearning": {name: values.tolist() for name, values in self.unlearning.items()},
            "columns": list(self.columns),
            "curve": self.curve.tolist(),
            "epochs": self.epochs.tolist(),
        }

    def ended(self) -> TrialReport:
        """The same of a configuration that is stopped here."""
        return self._with_same_metrics(replace(self, done=True))

    def without_measurements(self) -> TrialReport:
        """The same with its metrics, without the arrays that they come from."""
        kept = {name: value for name, value in vars(self).items() if name not in ("metrics", *self.measurements())}
        return self._with_same_metrics(TrialReport(**kept))

    def as_result(self) -> dict[str, Any]:
        """A flat result for users of Ray Tune: metrics by name, how it stands, and under `record` the arrays.

        `failed` and `out_of_memory` are there only where the trial failed.
        """
        problems: dict[str, Any] = {"failed": self.failed} if self.failed else {}
        problems |= {OUT_OF_MEMORY: True} if self.out_of_memory else {}
        problems |= {"unwritable": self.unwritable} if self.unwritable else {}
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
    """Label -> report, of the configurations that a result tells of."""
    return {report.label: report for report in result.get(REPORTS, ())}


def replace_reports(result: Mapping[str, Any], reports: Collection[TrialReport]) -> None:
    """Put other reports in place of those of the same labels, for all who read the result after this: Ray Tune hands
    the same list to its scheduler, its searcher and its callbacks, one after another.
    """
    changed = {report.label: report for report in reports}
    held: list[TrialReport] = result[REPORTS]
    held[:] = [changed.get(report.label, report) for report in held]
