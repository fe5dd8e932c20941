"""What a trial of Ray Tune tells the driver: of one configuration, or of each of several that train together."""

from __future__ import annotations

from typing import Any

from clsearch import metrics
from clsearch.metrics import last_rows
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import Run

COHORT = "cohort"
"""In a trial's config: its configurations, where there are several, each with its label, searched values and state
file. In a result: what is told of those that moved.
"""

OUT_OF_MEMORY = "out_of_memory"
"""In a result: the trial failed for its size, which says nothing of the searched values."""

UNBUILT = {
    "tasks_learned": 0,
    "seconds": 0.0,
    "shared_seconds": 0.0,
    "record": {name: [] for name in ("accuracy", "columns", "curve", "epochs")} | {"unlearning": {}},
}
"""Result of a trial that could not be built."""


def labels_in(config: dict[str, Any]) -> list[str]:
    """The labels of the configurations that a trial of Ray Tune trains."""
    return [own["label"] for own in config[COHORT]] if COHORT in config else [config["label"]]


def results_in(result: dict[str, Any], labels: list[str]) -> dict[str, dict[str, Any]]:
    """Label -> what a result says of this configuration. labels: of the trial's."""
    return {own["label"]: own for own in result[COHORT]} if COHORT in result else dict.fromkeys(labels, result)


def report(run: Run, state: TrialState) -> dict[str, Any]:
    """What is told of a configuration: numbers, and small arrays as lists.

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
