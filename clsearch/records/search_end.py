"""The end of a search before all its trials: out of patience, or of time."""

from __future__ import annotations

import math
from collections.abc import Iterable

from clsearch.common.formatting import format_time_spent
from clsearch.planning.objectives import is_feasible, sign
from clsearch.planning.plan import Plan
from clsearch.records.seeds import on_seeds
from clsearch.records.trials import TrialRecord


def count_unimproved(plan: Plan, records: Iterable[TrialRecord], begin: int = 0) -> int:
    """Count the last trials, in the order of their numbers, that did not improve the best one.

    A finished trial that keeps the constraints improves the best if it is better by more than the standard error of the
    best one's mean over its seeds; small steps add up, since the best stays the trial of the last improvement. With one
    seed there is no standard error, and each better trial counts. Trials that failed or were stopped improve nothing.

    Args:
        plan: The study, with one objective.
        records: Its trials; those that have not ended are left out.
        begin: Number of first ended trials that are not counted.
    """
    (name, *_), best, error, count = plan.objectives, -math.inf, 0.0, 0
    ended = sorted((record for record in records if record.ended), key=lambda record: record.label)
    for record in ended:
        count += 1
        if record.state != "finished" or not is_feasible(plan.constraints, record.metrics):
            continue
        found = on_seeds(record, plan.seeds).metrics
        gain = sign(name) * found[name]
        if gain > best + error:
            best, error, count = gain, found.get(f"{name}/std", 0.0) / math.sqrt(len(plan.seeds)), 0
    return min(count, max(0, len(ended) - begin))


def is_out_of_patience(plan: Plan, records: Iterable[TrialRecord], begin: int = 0) -> bool:
    """Return True if enough ended trials in a row did not improve the best. Arguments as in `count_unimproved`."""
    return plan.options.patience is not None and count_unimproved(plan, records, begin) >= plan.options.patience


def describe_patience_end(plan: Plan, records: Iterable[TrialRecord], begin: int = 0) -> str:
    """Describe the end of a search that ran out of patience; "" if it did not, or if all trials have ended."""
    records = list(records)
    ended = sum(record.ended for record in records)
    if ended >= plan.trials or not is_out_of_patience(plan, records, begin):
        return ""
    return (
        f"The search ended after {count_unimproved(plan, records, begin)} trials in a row that did not improve the "
        f"best by more than its standard error (patience {plan.options.patience}), with {ended} of {plan.trials} "
        f"trials. A larger --patience or more --trials continue it."
    )


def describe_time_end(plan: Plan, records: Iterable[TrialRecord], seconds: float, limit: float) -> str:
    """Describe the end of a search whose next trial would have ended after the time limit.

    Args:
        plan: The study.
        records: Its trials.
        seconds: Time from the start of the call to the end of the search.
        limit: The time limit.
    """
    ended = sum(record.ended for record in records)
    return (
        f"The search ended after {format_time_spent(seconds)} of {format_time_spent(limit)}, with {ended} of "
        f"{plan.trials} trials. The same command continues it, with the same time again."
    )
