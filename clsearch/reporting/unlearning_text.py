"""What a study of unlearning says in words: what each request took, how far from never having learned, at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clsearch.common.formatting import (
    DISTANCE,
    algorithm_label,
    humanize,
    label_with_unit,
    to_display_units,
    unit_suffix,
)
from clsearch.common.statistics import rank_correlation
from clsearch.config.trial import TrialConfig
from clsearch.config.unlearning import Requests, unlearned_by
from clsearch.planning.objectives import sign
from clsearch.records.ranking import Ranking, unlearning_of
from clsearch.records.trials import TrialRecord
from clsearch.training.retraining import task_trainings

TELLING = 0.3
"""Rank correlations below this are not told."""


@dataclass(frozen=True)
class Taken:
    """What a request took: accuracies before and after it, means over seeds and tasks. after: the task that it follows.
    chance: on the unlearned tasks. distance: right after it; NaN where it was not measured.
    """

    after: int
    tasks: tuple[int, ...]
    unlearned: tuple[float, float]
    chance: float
    retained: tuple[float, float]
    distance: float


def taken(record: TrialRecord, requests: Requests) -> list[Taken]:
    """What each request took of a trial that has come so far."""
    measured, found = unlearning_of(record), []
    for at, tasks in requests.items():
        if not measured or at > record.tasks_learned:
            continue
        gone = unlearned_by(requests, at)
        rows = {name: values[:, at].mean(0).numpy() for name, values in measured.items()}
        own = [task - 1 for task in tasks]
        kept = [task - 1 for task in range(1, at + 1) if task not in gone]
        found.append(
            Taken(
                after=at,
                tasks=tasks,
                unlearned=(rows["before"][own].mean(), rows["after"][own].mean()),
                chance=rows["chance"][own].mean(),
                retained=(rows["before"][kept].mean(), rows["after"][kept].mean()),
                distance=rows["distance"][:at].mean(),
            )
        )
    return found


def listed(tasks: Sequence[int]) -> str:
    """Tasks in a sentence."""
    shown = " and ".join([", ".join(map(str, tasks[:-1])), str(tasks[-1])] if len(tasks) > 1 else map(str, tasks))
    return f"task{'s' * (len(tasks) > 1)} {shown}"


def unlearning_reading(best: TrialRecord, requests: Requests, references: Sequence[TrialRecord]) -> list[str]:
    """What was unlearned of the chosen trial, and how far it then is from a model that never saw it."""
    twin = bool(best.settings.get("disable_unlearning"))
    lines = []
    for found in taken(best, requests):
        (before, after), (kept, left) = ([f"{100 * x:.2f}" for x in pair] for pair in (found.unlearned, found.retained))
        begin = f"After task {found.after}, {listed(found.tasks)}"
        lines.append(
            f"{begin} would have been unlearned: accuracy {before} %, chance {100 * found.chance:.2f} %."
            if twin
            else f"{begin} unlearned: accuracy from {before} to {after} % (chance {100 * found.chance:.2f} %), on the "
            f"retained tasks from {kept} to {left} %."
        )
    if DISTANCE in best.metrics:
        others = [
            f"{algorithm_label(r.algorithm)}'s are {r.metrics[DISTANCE]:.2f}"
            for r in references
            if DISTANCE in r.metrics
        ]
        far = f"{best.metrics[DISTANCE]:.2f} ({best.settings['unlearning_distance']})"
        said = f"At the end its features are {far} from those of a model that never saw them"
        lines.append(f"{said}{'; ' if others else ''}{', '.join(others)}.")
    return lines


def retraining_of(config: TrialConfig, seeds: int) -> list[str]:
    """What the models that are compared with cost."""
    if not config.requests:
        return []
    return [
        f"The models that never saw the unlearned tasks cost {task_trainings(config, seeds):,} task-trainings more."
    ]


def trade_off_reading(ranking: Ranking) -> list[str]:
    """What the front between a metric and the distance says; nothing where the distance is no objective."""
    if DISTANCE not in ranking.objectives or len(ranking.objectives) != 2:
        return []
    (other,) = (name for name in ranking.objectives if name != DISTANCE)
    front = [record for record in ranking.trials if record.label in ranking.front]
    if len(front) < 2:
        return [f"Trade-off: none among these trials; one is best in {humanize(other)} and in distance."]
    ends = sorted(front, key=lambda record: sign(other) * record.metrics[other])
    (low, high), (near, far) = ([r.metrics[name] for r in (ends[0], ends[-1])] for name in (other, DISTANCE))
    more = f", {100 * (far / near - 1):.0f} % more" if near > 0 else ""
    return [
        f"Trade-off: from one end of the front to the other, {humanize(other)} goes from "
        f"{to_display_units(other, low):.2f} to "
        f"{to_display_units(other, high):.2f}{unit_suffix(other)}, and the distance from "
        f"{near:.2f} to {far:.2f}{more}.",
        *_tendencies(ranking, other),
    ]


def _tendencies(ranking: Ranking, other: str) -> list[str]:
    """With which hyperparameter the objectives move, over all finished trials."""
    lines, trials = [], ranking.trials
    for name in trials[0].values if len(trials) > 4 else ():
        values = [record.values[name] for record in trials]
        found = [
            f"{'more' if rho > 0 else 'less'} {what} ({rho:+.2f})"
            for metric, what in ((other, label_with_unit(other).partition(" (")[0]), (DISTANCE, "distance"))
            if abs(rho := rank_correlation(values, [record.metrics[metric] for record in trials])) >= TELLING
        ]
        if found:
            lines.append(f"A larger {humanize(name)} goes with {' and '.join(found)}: rank correlations.")
    return lines
