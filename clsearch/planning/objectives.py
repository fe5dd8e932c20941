"""Objectives of a search: named metrics; for several, the Pareto front and its knee."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Literal

import numpy as np

from clsearch.common.errors import Refusal
from clsearch.config.sections import Scenario

LESS_IS_BETTER = ("average_forgetting", "forgetting/", "unlearning/")
"""Prefixes of the names of metrics to minimize."""

OF_UNLEARNING = ("unlearning/distance", "unlearning/gap_to_chance")
"""Objectives that exist if tasks are unlearned."""


def known_objectives(tasks: int, scenario: Scenario, unlearned: Set[int] = frozenset()) -> list[str]:
    """List the metrics that a trial can be judged by.

    Args:
        tasks: Number of tasks that the search learns, at least two.
        scenario: Of the benchmark; forward transfer has no meaning in class-incremental learning.
        unlearned: Numbers of the tasks that are unlearned by the end.
    """
    names = ["average_accuracy", "average_incremental_accuracy", "learning_accuracy"]
    earlier = [j for j in range(1, tasks) if j not in unlearned]
    names += ["average_forgetting", "backward_transfer"] if earlier else []
    if scenario is not Scenario.CLASS and any(j not in unlearned for j in range(2, tasks + 1)):
        names.append("forward_transfer")
    names += OF_UNLEARNING if unlearned else ()
    names += [f"accuracy/task_{j:02d}" for j in range(1, tasks + 1) if j not in unlearned]
    return names + [f"forgetting/task_{j:02d}" for j in earlier]


def check_objectives(
    objectives: Sequence[str], tasks: int, scenario: Scenario, unlearned: Set[int] = frozenset()
) -> list[Refusal]:
    """Check the objectives of a search. Arguments as in `known_objectives`."""
    known, problems = known_objectives(tasks, scenario, unlearned), []
    for name in objectives:
        if name == "intransigence":
            rule = (
                "must be measured by each trial; intransigence is a constant (of the joint reference) minus "
                "learning_accuracy, so search learning_accuracy instead"
            )
            problems.append(Refusal("objective-of-a-trial", f"objectives: {rule}; got intransigence"))
        elif name not in known:
            shown = [other for other in known if "/task_" not in other]
            shown += [f"{kind}/task_01..{n:02d}" for kind, n in (("accuracy", tasks), ("forgetting", tasks - 1))]
            text = f"objectives: must be metrics of this benchmark, {', '.join(shown)}; got {name}"
            problems.append(Refusal("objectives-known", text))
    return problems


def sign(name: str) -> int:
    """Return 1 for a metric to maximize, -1 for one to minimize."""
    return -1 if name.startswith(LESS_IS_BETTER) else 1


def direction(name: str) -> Literal["maximize", "minimize"]:
    """Return the direction in which Optuna optimizes a metric."""
    return "maximize" if sign(name) > 0 else "minimize"


def pareto_front(gains: np.ndarray) -> list[int]:
    """Find the Pareto front: the rows that no other row dominates.

    A row dominates another if it is at least as good in each column and better in one. Equal rows are all on the front.

    Args:
        gains: [n, m], more is better.

    Returns:
        Indices of the rows on the front, ordered by the first column, best first.
    """
    as_good = (gains[:, None] >= gains[None]).all(2)
    better = (gains[:, None] > gains[None]).any(2)
    kept = np.flatnonzero(~(as_good & better).any(0))
    return [int(i) for i in kept[np.lexsort(tuple(-gains[kept].T[::-1]))]]


def find_knee(gains: np.ndarray) -> int:
    """Find the knee of a front: the row with the largest sum of scaled gains.

    Each gain is scaled to 0 at its worst on the front and 1 at its best. Of equal rows, the best in the first column
    wins. For two objectives, the knee is the point farthest beyond the straight line between the ends of the front
    (Das 1999, "On characterizing the knee of the Pareto curve").

    Args:
        gains: [n, m], more is better.
    """
    low, high = gains.min(0), gains.max(0)
    scaled = (gains - low) / np.where(high > low, high - low, 1)
    best = np.flatnonzero(np.isclose(scaled.sum(1), scaled.sum(1).max(), rtol=0, atol=1e-9))
    return int(best[gains[best, 0].argmax()])


def choose(gains: np.ndarray) -> int:
    """Choose the row of `gains` [n, m] with which a search ends: the best; for several objectives the knee."""
    rows = pareto_front(gains)
    return rows[find_knee(gains[rows])]
