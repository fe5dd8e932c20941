"""Objectives and constraints of a search: named metrics; for several objectives, the Pareto front and its knee."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Literal

import numpy as np

from clsearch.common.errors import Refusal, did_you_mean
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


def violation(name: str, limit: float, value: float) -> float:
    """Return by how much a metric breaks its constraint: above 0 if it does.

    A metric to minimize must be at most the limit, one to maximize at least.

    Example:
        >>> violation("average_forgetting", 0.25, 0.5), violation("average_accuracy", 0.75, 0.5)
        (0.25, 0.25)
    """
    return sign(name) * (limit - value)


def violations(constraints: Mapping[str, float], metrics: Mapping[str, float]) -> list[float]:
    """Return by how much a trial breaks each constraint; infinity for a metric that it does not have."""
    return [violation(n, limit, metrics[n]) if n in metrics else math.inf for n, limit in constraints.items()]


def is_feasible(constraints: Mapping[str, float], metrics: Mapping[str, float]) -> bool:
    """Return True if a trial keeps all constraints."""
    return all(broken <= 0 for broken in violations(constraints, metrics))


def show_constraints(constraints: Mapping[str, float]) -> str:
    """Write constraints in a sentence: `average_forgetting at most 0.1`."""
    words = {1: "at least", -1: "at most"}
    return " and ".join(f"{name} {words[sign(name)]} {limit:g}" for name, limit in constraints.items())


def check_constraints(
    constraints: Mapping[str, float], tasks: int, scenario: Scenario, unlearned: Set[int] = frozenset()
) -> list[Refusal]:
    """Check the constraints of a search. Other arguments as in `known_objectives`."""
    known, problems = known_objectives(tasks, scenario, unlearned), []
    for name, limit in constraints.items():
        if name not in known:
            text = f"constraints: must be on metrics of this benchmark{did_you_mean(name, known)}"
            listed = ", ".join(one for one in known if "/task_" not in one)
            problems.append(Refusal("constraints-known", f"{text}, as {listed}; got {name}"))
        elif not name.startswith("unlearning/") and not -1 <= limit <= 1:
            text = f"constraints: {name} is a share, so its limit must lie between -1 and 1"
            problems.append(Refusal("constraint-of-share", f"{text}; got {limit:g}. Write 0.1 for 10 %"))
    return problems
