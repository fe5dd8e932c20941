"""What a study starts from: the configurations that it queued before, and the best trials of another study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.formatting import count_of, relative_path
from clsearch.config.plain_values import Plain, show_value, to_plain
from clsearch.config.spaces import SearchSpace
from clsearch.methods.registry import fields_of
from clsearch.planning.enqueued import Enqueued, WarmStart, check_number
from clsearch.planning.plan import Plan
from clsearch.planning.spaces import pick_with
from clsearch.records.json_types import StudyJson
from clsearch.records.seed_extension import read_begun
from clsearch.records.study_file import read_study_json, study_at

if TYPE_CHECKING:
    from clsearch.records.trials import TrialRecord

TOP = 10
"""Default number of trials that a warm start takes."""

MUST_AGREE = ("benchmark", "scenario")
"""Settings in which another study must agree, as in its algorithm."""


def start_from_known(plan: Plan, say: Callable[[str], object]) -> Plan:
    """Add to the queue of a plan what its study queued before, and the trials of `--warm-start`.

    What study.json names comes first, so a study that is resumed queues the same, whether the files and the other study
    are still there or not.

    Args:
        plan: The plan.
        say: Called with a line about what is taken of another study, and what is left out.

    Raises:
        ConfigError: There is no such study, it does not agree with this one, or there is no room for all.
    """
    found = read_begun(plan)
    known = [] if found is None else [Enqueued(one["values"], one["origin"]) for one in found.get("enqueued", [])]
    before = found.get("warm_start") if found is not None else None
    start = None if before is None else WarmStart(**before)
    wanted = [*known, *plan.enqueued]
    if plan.options.warm_start is not None and not is_same_start(plan, start):
        start, taken = take_best(plan, max(1, plan.trials - len(distinct(wanted))), say)
        wanted += taken
    plan = replace(plan, enqueued=tuple(distinct(wanted)), warm_start=start)
    check_number(plan.options, plan.enqueued, plan.trials)
    return plan


def is_same_start(plan: Plan, start: WarmStart | None) -> bool:
    """Return True if a study was started before from the study that its options name, with as many trials."""
    assert plan.options.warm_start is not None
    named = start is not None and start.study == plan.options.warm_start.name
    return named and start is not None and plan.options.top in (None, start.top)


def distinct(several: list[Enqueued]) -> list[Enqueued]:
    """Return configurations without those that an earlier one equals."""
    return [one for place, one in enumerate(several) if one.values not in [other.values for other in several[:place]]]


def check_room(plan: Plan) -> None:
    """Check that the trials left of a study that is resumed suffice for its queue. Raises ConfigError."""
    if not plan.enqueued or plan.options.fresh:
        return
    from clsearch.records.trials import read_trials  # pandas, which a refusal does not wait for

    suggested = sum(r.number is not None and not r.origin for r in read_trials(plan.folder).values())
    if suggested + len(plan.enqueued) > plan.trials:
        text = (
            f"trials: must be at least {suggested + len(plan.enqueued)}, since the study has "
            f"{count_of(suggested, 'trial')} that were suggested, and {len(plan.enqueued)} that are enqueued"
        )
        raise ConfigError([Refusal("trials-for-enqueued", f"{text}; got {plan.trials}")])


@dataclass
class LeftOut:
    """What a warm start leaves out.

    Attributes:
        outside: Hyperparameter -> number of trials whose value this study cannot have.
        unsearched: Hyperparameters that this study does not search and has another value of.
        invalid: Number of trials whose values do not go together here.
        equal: Number of trials that equal another one in what is left of them.
    """

    outside: Counter[str] = field(default_factory=Counter)
    unsearched: dict[str, None] = field(default_factory=dict)
    invalid: int = 0
    equal: int = 0

    def describe(self, space: SearchSpace) -> str:
        """Describe it for one line; "" if nothing is left out."""
        parts = [
            f"{name} of {count_of(number, 'trial')}, outside {space[name]}" for name, number in self.outside.items()
        ]
        if self.unsearched:
            parts.append(f"{', '.join(self.unsearched)}, not searched here")
        parts += [f"{count_of(self.invalid, 'trial')} with values that do not go together here"] * bool(self.invalid)
        parts += [f"{count_of(self.equal, 'trial')} equal to another one"] * bool(self.equal)
        return "; ".join(parts)


def take_best(plan: Plan, room: int, say: Callable[[str], object]) -> tuple[WarmStart, list[Enqueued]]:
    """Take the best finished trials of another study, as far as the spaces agree.

    Args:
        plan: The plan, whose options name the study.
        room: Number of trials that are left for them.
        say: Called with a line about them, and one for each damaged record.

    Raises:
        ConfigError: There is no such study, it does not agree with this one, or no trial has finished.
    """
    assert plan.options.warm_start is not None
    try:
        folder, study = study_at(plan.options.warm_start)
    except ConfigError as error:
        raise ConfigError(
            Refusal(one.rule, f"warm_start: {one.removeprefix('results: ')}") for one in error.problems
        ) from None
    check_agrees(plan, study, relative_path(folder))
    from clsearch.records.trials import read_trials_and_damage

    records, damaged = read_trials_and_damage(folder, study["objectives"])
    for damage in damaged:
        say(f"warm start: left out, because it is damaged: {damage}")
    ranked = rank_for(plan, study, [record for record in records.values() if record.number is not None])
    top, left_out, taken = plan.options.top or min(TOP, room), LeftOut(), list[Enqueued]()
    for record in ranked:
        if len(taken) == top:
            break
        values = shared_values(record, plan, left_out)
        if values and is_valid(plan, values, left_out):
            equal = any(values == one.values for one in (*taken, *plan.enqueued))
            left_out.equal += equal
            taken += [] if equal else [Enqueued(values, f"{folder.name} #{record.number}")]
    if not taken and not left_out.equal:
        text = "warm_start: must be a study with a finished trial that has values of what is searched here"
        raise ConfigError(
            [Refusal("warm-start-agrees", f"{text}, {', '.join(plan.space) or 'nothing'}; got {folder.name}")]
        )
    without = left_out.describe(plan.space)
    say(
        f"warm start: {len(taken)} of {count_of(len(ranked), 'finished trial')} of {folder.name} are tried first"
        + (f"; left out: {without}" if without else "")
    )
    return WarmStart(folder.name, study["id"], top), taken


def check_agrees(plan: Plan, study: StudyJson, shown: str) -> None:
    """Refuse a study of another question, unless the user wants it anyway, and the study itself. Raises ConfigError."""
    own = read_study_json(plan.folder)
    if own is not None and own["id"] == study["id"]:
        raise ConfigError(
            [Refusal("warm-start-other", f"warm_start: must be another study than the one that starts; got {shown}")]
        )
    ours = {"algorithm": plan.algorithm} | {name: str(getattr(plan.config, name)) for name in MUST_AGREE}
    theirs = {"algorithm": study["algorithm"]} | {name: str(study["config"][name]) for name in MUST_AGREE}
    problems = [
        Refusal(
            "warm-start-same",
            f"warm_start: must have the {name} of this study, {ours[name]}, or be wanted with --anyway; "
            f"got {theirs[name]} of {shown}",
        )
        for name in ours
        if ours[name] != theirs[name] and not plan.options.anyway
    ]
    if problems:
        raise ConfigError(problems)


def rank_for(plan: Plan, study: StudyJson, records: list[TrialRecord]) -> list[TrialRecord]:
    """Rank the finished trials of another study by this study's objectives, or by its own if they were not measured."""
    from clsearch.records.ranking import rank

    finished = [record for record in records if record.state == "finished"]
    measured = all(name in record.metrics for record in finished for name in plan.objectives)
    return rank(finished, plan.objectives if measured else tuple(study["objectives"])).trials


def shared_values(record: TrialRecord, plan: Plan, left_out: LeftOut) -> dict[str, Plain]:
    """Return the values of a trial that this study can try; note what is left out."""
    values: dict[str, Plain] = {}
    for part in plan.space.parts:
        if part.name not in record.settings or part.name in values or not part.applies(values):
            continue
        value = part.domain.plain(record.settings[part.name])
        if part.domain.contains(value):
            values[part.name] = value
        elif part.name in record.values:
            left_out.outside[part.name] += 1
    for name, value in record.values.items():
        acts = name in fields_of(plan.algorithm)
        if name not in plan.space and not (acts and show_value(value) == show_value(own_value(plan, name))):
            left_out.unsearched[name] = None
    return values


def own_value(plan: Plan, name: str) -> Plain:
    """Return the plain value of a setting that all trials share."""
    return to_plain(getattr(plan.config, name))


def is_valid(plan: Plan, values: dict[str, Plain], left_out: LeftOut) -> bool:
    """Return True if the values go together with the study's settings; note it if they do not."""
    keys = {part.key: values[part.name] for part in plan.space.active_parts(values) if part.name in values}
    try:
        plan.trial_config(pick_with(plan.space, keys))
    except ConfigError:
        left_out.invalid += 1
        return False
    return True
