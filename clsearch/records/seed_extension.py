"""Which seeds a study has by now, and which further ones it is to get."""

from __future__ import annotations

from dataclasses import replace

from clsearch.common.checked_files import DamagedFile
from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.formatting import relative_path
from clsearch.planning.options import Protocol
from clsearch.planning.plan import Plan, SeedExtension
from clsearch.records.json_types import StudyJson
from clsearch.records.study_file import read_study_json


def read_begun(plan: Plan) -> StudyJson | None:
    """Read the study.json of the study that a plan resumes; None without one, or if `check_same` will refuse it."""
    try:
        return None if plan.options.fresh else read_study_json(plan.folder)
    except DamagedFile:
        return None


def with_further_seeds(plan: Plan) -> Plan:
    """Return a plan whose search has the seeds that its study began with, and whose other seeds are further ones.

    Args:
        plan: A plan with as many seeds as its user asks for.

    Raises:
        ConfigError: The study has more seeds by now, or all trials are to get further seeds and there are none.
    """
    found = None if plan.protocol is Protocol.CONTINUAL else read_begun(plan)
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
