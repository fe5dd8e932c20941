"""Trials whose seeds differ: a trial on some of its seeds, on those that it shares with another, joined with more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clsearch.records.trial_metrics import Measurements, metrics_after
from clsearch.records.trials import TrialRecord, group_sizes, merge_curves


def on_seeds(record: TrialRecord, seeds: Sequence[int]) -> TrialRecord:
    """Return a trial as if it had been trained on some of its seeds only, without its learning curve."""
    if record.seeds == tuple(seeds) or not record.accuracy:
        return record
    places = [record.seeds.index(seed) for seed in seeds]
    part = replace(
        record,
        seeds=tuple(seeds),
        accuracy=[record.accuracy[place] for place in places],
        unlearning={name: [values[place] for place in places] for name, values in record.unlearning.items()},
        columns=[],
        curve=[],
        epochs=[],
        groups=[],
    )
    return replace(part, metrics=metrics_after(part, part.tasks_learned))


def pair_seeds(one: TrialRecord, other: TrialRecord, first: Any, second: Any) -> tuple[list[Any], list[Any]]:
    """Return the values of two trials, one per seed each, on the seeds that both have."""
    common = [seed for seed in one.seeds if seed in other.seeds]
    return (
        [first[one.seeds.index(seed)] for seed in common],
        [second[other.seeds.index(seed)] for seed in common],
    )


def join_seeds(record: TrialRecord, more: Measurements, seeds: Sequence[int]) -> TrialRecord:
    """Return a trial with the measurements of the same configuration on further seeds.

    Args:
        record: The trial, with its learning curve if it is to keep it.
        more: The measurements on the further seeds, after as many tasks.
        seeds: The further seeds.
    """
    columns, curve, epochs = [], np.empty((0, 0, 0)), np.empty((0, 2))
    if record.columns and list(record.columns) == list(more.columns):
        parts = [(np.array(one.epochs, dtype=int), np.array(one.curve, dtype=float)) for one in (record, more)]
        columns, (epochs, curve) = list(record.columns), merge_curves(parts)
    unlearning = {
        name: [*values, *np.asarray(more.unlearning[name]).tolist()] for name, values in record.unlearning.items()
    }
    joined = replace(
        record,
        seeds=(*record.seeds, *seeds),
        groups=[*group_sizes(record), len(seeds)],
        accuracy=[*record.accuracy, *np.asarray(more.accuracy).tolist()],
        unlearning=unlearning,
        columns=columns,
        curve=curve.tolist(),
        epochs=epochs.tolist(),
    )
    return replace(joined, metrics=metrics_after(joined, joined.tasks_learned))
