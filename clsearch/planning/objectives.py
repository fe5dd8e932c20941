"""What a search optimizes: named metrics, and of several the Pareto front and its knee."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Literal

import numpy as np

from clsearch.config.sections import Scenario

LESS_IS_BETTER = ("average_forgetting", "forgetting/", "unlearning/")
"""How the names of metrics begin of which the smaller is better."""


OF_UNLEARNING = ("unlearning/distance", "unlearning/gap_to_chance")
"""Objectives where tasks are unlearned."""


def known_objectives(tasks: int, scenario: Scenario, unlearned: Set[int] = frozenset()) -> list[str]:
    """The metrics of `core.metrics` after a number of tasks, more than one, of which some were unlearned."""
    names = ["average_accuracy", "average_incremental_accuracy", "learning_accuracy"]
    earlier = [j for j in range(1, tasks) if j not in unlearned]
    names += ["average_forgetting", "backward_transfer"] if earlier else []
    if scenario is not Scenario.CLASS and any(j not in unlearned for j in range(2, tasks + 1)):
        names.append("forward_transfer")
    names += OF_UNLEARNING if unlearned else ()
    names += [f"accuracy/task_{j:02d}" for j in range(1, tasks + 1) if j not in unlearned]
    return names + [f"forgetting/task_{j:02d}" for j in earlier]


def problems_of_objectives(
    objectives: Sequence[str], tasks: int, scenario: Scenario, unlearned: Set[int] = frozenset()
) -> list[str]:
    """What is wrong with the objectives of a search over this many tasks, of which some are unlearned."""
    known, problems = known_objectives(tasks, scenario, unlearned), []
    for name in objectives:
        if name == "intransigence":
            problems.append(
                "objectives: must be measured by each trial; intransigence is a constant (the joint reference's) minus "
                "learning_accuracy, so search that; got intransigence"
            )
        elif name not in known:
            shown = [other for other in known if "/task_" not in other]
            shown += [f"{kind}/task_01..{n:02d}" for kind, n in (("accuracy", tasks), ("forgetting", tasks - 1))]
            problems.append(f"objectives: must be metrics of this benchmark, {', '.join(shown)}; got {name}")
    return problems


def sign(name: str) -> int:
    """1 for a metric of which more is better, -1 where less is."""
    return -1 if name.startswith(LESS_IS_BETTER) else 1


def direction(name: str) -> Literal["maximize", "minimize"]:
    """Optuna's word for it."""
    return "maximize" if sign(name) > 0 else "minimize"


def front(gains: np.ndarray) -> list[int]:
    """Rows of `gains` [n, m] (more is better) that no other row dominates: as good in each column, better in one.

    Of equal rows, all are on the front. In the order of the first column, best first.
    """
    as_good = (gains[:, None] >= gains[None]).all(2)
    better = (gains[:, None] > gains[None]).any(2)
    kept = np.flatnonzero(~(as_good & better).any(0))
    return [int(i) for i in kept[np.lexsort(tuple(-gains[kept].T[::-1]))]]


def knee(gains: np.ndarray) -> int:
    """The row of a front [n, m] with the largest sum of gains, each scaled to 0 at its worst on the front and 1 at its
    best; of equal ones the first in the first column.

    Of two objectives it is the point farthest beyond the straight line between the front's ends (Das 1999, "On
    characterizing the knee of the Pareto curve").
    """
    low, high = gains.min(0), gains.max(0)
    scaled = (gains - low) / np.where(high > low, high - low, 1)
    best = np.flatnonzero(np.isclose(scaled.sum(1), scaled.sum(1).max(), rtol=0, atol=1e-9))
    return int(best[gains[best, 0].argmax()])


def chosen(gains: np.ndarray) -> int:
    """The row of `gains` [n, m] that a search ends with: the best, or of several objectives the knee of the front."""
    rows = front(gains)
    return rows[knee(gains[rows])]
