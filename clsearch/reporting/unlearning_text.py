"""Unlearning in sentences: the effect of each request, the distance to retrained models, and the cost of those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clsearch.common.formatting import DISTANCE, count_of, format_metric, format_number, humanize
from clsearch.common.statistics import rank_correlation
from clsearch.config.plain_values import is_number
from clsearch.config.trial import TrialConfig
from clsearch.config.unlearning import Requests, count_retraining, unlearned_by
from clsearch.methods.registry import label_of
from clsearch.planning.objectives import sign
from clsearch.records.ranking import Ranking
from clsearch.records.trial_metrics import unlearning_measurements
from clsearch.records.trials import TrialRecord

MIN_CORRELATION = 0.3
"""Weaker rank correlations are not reported."""

MIN_TRIALS = 5
"""With fewer trials no rank correlation is reported."""


@dataclass(frozen=True)
class RequestEffect:
    """The effect of a request to unlearn tasks: means over seeds and tasks.

    Attributes:
        after: The task that the request follows.
        tasks: The tasks that it unlearns.
        unlearned: Accuracy on them before and after the request.
        chance: Accuracy of chance on them.
        retained: Accuracy on the retained tasks before and after the request.
        distance: Distance to the retrained model right after the request; NaN if it was not measured.
    """

    after: int
    tasks: tuple[int, ...]
    unlearned: tuple[float, float]
    chance: float
    retained: tuple[float, float]
    distance: float


def request_effects(record: TrialRecord, requests: Requests) -> list[RequestEffect]:
    """The effect of each request that a trial has reached."""
    measured = unlearning_measurements(record)
    if not measured:
        return []
    effects = []
    for after, tasks in requests.items():
        if after > record.tasks_learned:
            continue
        unlearned = unlearned_by(requests, after)
        rows = {name: values[:, after].mean(0) for name, values in measured.items()}
        columns = [task - 1 for task in tasks]
        retained = [task - 1 for task in range(1, after + 1) if task not in unlearned]
        effects.append(
            RequestEffect(
                after=after,
                tasks=tasks,
                unlearned=(rows["before"][columns].mean(), rows["after"][columns].mean()),
                chance=rows["chance"][columns].mean(),
                retained=(rows["before"][retained].mean(), rows["after"][retained].mean()),
                distance=rows["distance"][:after].mean(),
            )
        )
    return effects


def join_tasks(tasks: Sequence[int]) -> str:
    """Tasks in a sentence: `task 3`, `tasks 1, 2 and 5`."""
    if len(tasks) == 1:
        return f"task {tasks[0]}"
    return f"tasks {', '.join(map(str, tasks[:-1]))} and {tasks[-1]}"


def describe_unlearning(best: TrialRecord, requests: Requests, references: Sequence[TrialRecord]) -> list[str]:
    """The effect of each request on the chosen trial, and its final distance to a model that never saw those tasks."""
    control = bool(best.settings.get("disable_unlearning"))
    lines = [_describe_effect(effect, control) for effect in request_effects(best, requests)]
    if DISTANCE in best.metrics:
        others = "".join(
            f"; {label_of(r.algorithm)}: {r.metrics[DISTANCE]:.2f}" for r in references if DISTANCE in r.metrics
        )
        lines.append(
            f"Final distance of the features to a model that never saw them: {best.metrics[DISTANCE]:.2f} "
            f"({best.settings['unlearning_distance']}){others}."
        )
    return lines


def _describe_effect(effect: RequestEffect, control: bool) -> str:
    """One request's effect. control: unlearning was disabled."""
    begin, chance = f"After task {effect.after}, {join_tasks(effect.tasks)}", f"{100 * effect.chance:.2f} %"
    before, after = (f"{100 * value:.2f}" for value in effect.unlearned)
    if control:
        return f"{begin} would be unlearned: accuracy {before} %, chance {chance}."
    kept_before, kept_after = (f"{100 * value:.2f}" for value in effect.retained)
    return (
        f"{begin} unlearned: accuracy from {before} to {after} % (chance {chance}), on the retained tasks from "
        f"{kept_before} to {kept_after} %."
    )


def describe_retraining_cost(config: TrialConfig, seeds: int) -> list[str]:
    """The cost of the retrained models that the distance is measured to."""
    if not config.requests:
        return []
    cost = count_of(count_retraining(config.requests, config.tasks, seeds), "task-seed training")
    return [f"The models that never saw the unlearned tasks cost another {cost}."]


def describe_trade_off(ranking: Ranking) -> list[str]:
    """The front between a metric and the distance; nothing if these two are not the objectives."""
    if DISTANCE not in ranking.objectives or len(ranking.objectives) != 2:
        return []
    (other,) = (name for name in ranking.objectives if name != DISTANCE)
    front = [record for record in ranking.trials if record.label in ranking.front]
    if len(front) < 2:
        return [f"Trade-off: none among these trials; one trial is best in both {humanize(other)} and distance."]
    ends = sorted(front, key=lambda record: sign(other) * record.metrics[other])
    low, high = (record.metrics[other] for record in (ends[0], ends[-1]))
    near, far = (record.metrics[DISTANCE] for record in (ends[0], ends[-1]))
    more = f", {100 * (far / near - 1):.0f} % more" if near > 0 else ""
    return [
        f"Trade-off: from one end of the front to the other, {humanize(other)} goes from {format_number(other, low)} "
        f"to {format_metric(other, high)}, and the distance from {near:.2f} to {far:.2f}{more}.",
        *_describe_correlations(ranking, other),
    ]


def _describe_correlations(ranking: Ranking, other: str) -> list[str]:
    """The hyperparameters with which the two objectives correlate over all finished trials."""
    lines = []
    for name in dict.fromkeys(name for record in ranking.trials for name in record.values):
        trials, found = [record for record in ranking.trials if name in record.values], list[str]()
        values = [value for record in trials if is_number(value := record.values[name])]
        if len(trials) < MIN_TRIALS or len(values) < len(trials):
            continue
        for metric, label in ((other, humanize(other)), (DISTANCE, "distance")):
            rho = rank_correlation(values, [record.metrics[metric] for record in trials])
            if abs(rho) >= MIN_CORRELATION:
                found.append(f"{'more' if rho > 0 else 'less'} {label} ({rho:+.2f})")
        if found:
            those = "" if len(trials) == len(ranking.trials) else f" in the {len(trials)} trials that have it"
            lines.append(
                f"A larger {humanize(name)} goes with {' and '.join(found)} (Spearman's rank correlation{those})."
            )
    return lines
