"""Further seeds of a study that exists: which trials are worth them. `seed_extension` says which seeds it has."""

from __future__ import annotations

from collections.abc import Sequence

from clsearch.planning.plan import Plan
from clsearch.records.ranking import rank
from clsearch.records.seeds import on_seeds
from clsearch.records.trials import TrialRecord

STATE_FILE = "further_seeds.pt"
"""Checkpoint of the training on further seeds, in a trial's folder."""


def missing_seeds(
    plan: Plan, trials: Sequence[TrialRecord], references: Sequence[TrialRecord]
) -> dict[str, tuple[int, ...]]:
    """Return label -> the seeds that a trial or reference is to be trained on now.

    For each extension of the seeds, it is worth training the trials that are not shown worse than the best on all seeds
    before, or all that finished, and the references. What the next extension needs shows once this one is done.

    Args:
        plan: The study.
        trials: Its trials.
        references: Its references.
    """
    seeds = plan.seeds
    for extension in plan.further:
        finished = [record for record in trials if record.state == "finished"]
        compared = [on_seeds(record, seeds) for record in finished if {*seeds} <= {*record.seeds}]
        close = rank(compared, plan.objectives, plan.constraints).close
        seeds = (*seeds, *extension.seeds)
        worth = [record for record in finished if extension.all or record.label in close]
        worth += [record for record in references if record.state == "finished"]
        missing = {
            record.label: tuple(seed for seed in seeds if seed not in record.seeds)
            for record in worth
            if not record.reason  # it diverged on further seeds
        }
        if found := {label: own for label, own in missing.items() if own}:
            return found
    return {}
