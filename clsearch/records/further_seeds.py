"""Further seeds of a study that exists: which seeds it has, and which trials are worth more of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.formatting import relative_path
from clsearch.planning.options import Protocol
from clsearch.planning.plan import Plan, SeedExtension
from clsearch.records.ranking import rank
from clsearch.records.seeds import on_seeds
from clsearch.records.study_file import read_study_json
from clsearch.records.trials import TrialRecord

STATE_FILE = "further_seeds.pt"
"""Checkpoint of the training on further seeds, in a trial's folder."""


def with_further_seeds(plan: Plan) -> Plan:
    """Return a plan whose search has the seeds that its study began with, and whose other seeds are further ones.

    Args:
        plan: A plan with as many seeds as its user asks for.

    Raises:
        ConfigError: The study has more seeds by now, or all trials are to get further seeds and there are none.
    """
    fixed = plan.options.fresh or plan.protocol is Protocol.CONTINUAL
    found = None if fixed else read_study_json(plan.folder)
    first, known = plan.seeds, list[SeedExtension]()
    if found is not None:
        first = tuple(found["seeds"])
        known = [SeedExtension(tuple(one["seeds"]), one["all"]) for one in found.get("more_seeds", [])]
    before = (*first, *(seed for one in known for seed in one.seeds))
    if known and len(plan.seeds) < len(before) and before[: len(plan.seeds)] == plan.seeds:
        text = f"seeds: must be at least {len(before)}, which the study in {relative_path(plan.folder)} has by now"
        raise ConfigError([Refusal("seeds-not-fewer", f"{text}; got {len(plan.seeds)}")])
    if plan.seeds[: len(before)] != before:  # another study: `check_same` says so
        return plan
    if new := plan.seeds[len(before) :]:
        known.append(SeedExtension(new, plan.options.all))
    elif plan.options.all and known:
        known[-1] = replace(known[-1], all=True)
    elif plan.options.all:
        text = "all: acts if a study that exists gets more --seeds than it has"
        raise ConfigError([Refusal("all-needs-seeds", f"{text}; got {len(before)} seeds")])
    options = plan.options.model_copy(update={"seeds": len(first)})
    return replace(plan, options=options, further=tuple(known))


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
