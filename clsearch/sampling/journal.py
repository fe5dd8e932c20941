"""Optuna's journal: opened, compared with the trials' records, and made again from them if it is missing or damaged.

The records hold all that the journal says of a trial: its number, values, progress, end and score. A trial that was
asked for and has no record yet is in the journal alone, and is asked for again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.files import atomic_path
from clsearch.common.formatting import count_of, relative_path
from clsearch.config.plain_values import Plain, Values
from clsearch.config.spaces import SearchSpace
from clsearch.planning.enqueued import Enqueued
from clsearch.planning.objectives import direction
from clsearch.planning.plan import Plan
from clsearch.records.resume import set_aside
from clsearch.records.seeds import on_seeds
from clsearch.records.study_file import JOURNAL
from clsearch.records.trial_metrics import metrics_after
from clsearch.records.trials import REFUSED, STATE_FILE, TrialRecord, read_trials, trial_label
from clsearch.reporting.importances import distribution_of
from clsearch.sampling.pruners import pruner_of
from clsearch.sampling.samplers import (
    constraint_attribute,
    distributions_of,
    generation_attribute,
    population_of,
    recall_evolution,
    skip_points,
)
from clsearch.sampling.study import ORIGIN, asked_of, enqueue, params_of, values_of
from clsearch.training.loop import DIVERGED

REASON = "reason"
"""Attribute of diverged and refused trials: the reason."""

LEFT: dict[str, tuple[OptunaState, ...]] = {"finished": (OptunaState.COMPLETE,), "pruned": (OptunaState.PRUNED,)}
LEFT["failed"] = (OptunaState.PRUNED, OptunaState.FAIL)
"""State of an ended record -> states of its trial in the journal."""

Records = Mapping[int, TrialRecord]
"""Optuna's number -> record."""


def open_storage(plan: Plan, say: Callable[[str], object] = lambda line: None) -> optuna.Study:
    """Open the Optuna study of a plan in its journal, or create it, and queue what is tried first: the enqueued
    configurations, or the whole grid.

    The process must hold the study (`resume.study_lock`).

    Args:
        plan: The study.
        say: Called with a line about a journal that was made again.

    Raises:
        ConfigError: The study has asked for more trials than the plan has.
    """
    optuna.logging.set_verbosity(optuna.logging.INFO if plan.options.verbose else optuna.logging.WARNING)
    plan.folder.mkdir(parents=True, exist_ok=True)
    study = open_journal(plan, say)
    # GridSampler raises at the last `tell` outside `optimize`; a queue gives the same points.
    for point in islice(grid_of(plan), len(study.get_trials(deepcopy=False)), None):
        study.enqueue_trial(point)
    enqueue(study, plan)
    asked = len(asked_of(study))
    if asked > plan.trials:
        text = f"trials: must be at least {asked}, the number of trials that the study already has; got {plan.trials}"
        raise ConfigError([Refusal("trials-begun", text)])
    return study


def grid_of(plan: Plan) -> Iterator[dict[str, Plain]]:
    """Return the points of a grid search in Optuna's names, in the order of its trials; none of another search."""
    points = plan.space.grid(plan.options.grid_points) if plan.options.sampler == "grid" and plan.space else ()
    return (params_of(plan.space, point) for point in points)


def open_journal(plan: Plan, say: Callable[[str], object]) -> optuna.Study:
    """Open the Optuna study of a plan in its journal.

    A journal that is missing, damaged or different from the trials' records is made again from the records. The process
    must hold the study (`resume.study_lock`).

    Args:
        plan: The study.
        say: Called with a line about a journal that was made again.
    """
    journal, records = plan.folder / JOURNAL, read_numbered(plan)
    mend(journal)
    study, problem = try_to_load(journal, plan, records)
    if study is not None and not problem:
        return study
    if not records and (not journal.exists() or (journal.is_file() and not journal.stat().st_size)):
        return create(journal, plan)
    kept = make_again(plan, records)
    place = f"; the old one is kept as {kept.name}" if kept else ""
    source = f"from the records of {count_of(len(records), 'trial')}"
    say(f"Optuna's journal {relative_path(journal)} {problem}: made again {source}{place}")
    return load(journal, plan)


def mend(journal: Path) -> None:
    """Repair what a killed process can leave: a lock, which blocks every write, and an incomplete last line."""
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink(missing_ok=True)
    if journal.is_file():
        with journal.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def read_numbered(plan: Plan) -> dict[int, TrialRecord]:
    """Read the records of a plan's trials that hold its searched values, by Optuna's number.

    Optuna knows of the seeds of the search only, so records have no others.
    """
    return {
        record.number: on_seeds(record, plan.seeds) if {*plan.seeds} <= {*record.seeds} else record
        for label, record in read_trials(plan.folder).items()
        if record.number is not None and label == trial_label(record.number) and plan.space.has(record.values)
    }


def try_to_load(journal: Path, plan: Plan, records: Records) -> tuple[optuna.Study | None, str]:
    """Load the study in a journal, and say what is wrong with it; "" if nothing is."""
    if not journal.exists():
        return None, "was missing"
    try:
        check_lines(journal)
        study = load(journal, plan)
        return study, find_difference(study, plan, records)
    except Exception as error:  # Optuna replays a journal without checks, so damage raises anything
        return None, f"was damaged ({type(error).__name__})"


def check_lines(journal: Path) -> None:
    """Check that each line is an operation. Optuna overlooks damage in the last one, and fails when it is followed."""
    for line in journal.read_bytes().splitlines():
        _ = json.loads(line)["op_code"]


def load(journal: Path, plan: Plan) -> optuna.Study:
    """Load the study that was begun last in a journal; its name can be that of a folder that was renamed."""
    storage = JournalStorage(JournalFileBackend(str(journal)))
    name = optuna.get_all_study_names(storage)[-1]
    return optuna.load_study(study_name=name, storage=storage, pruner=pruner_of(plan))


def create(journal: Path, plan: Plan) -> optuna.Study:
    """Create the study of a plan in a new journal."""
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name=plan.options.name,
        directions=[direction(name) for name in plan.objectives],
        pruner=pruner_of(plan),
    )


def find_difference(study: optuna.Study, plan: Plan, records: Records) -> str:
    """Say where a journal differs from a plan or from records; "" if it agrees.

    Of a trial whose record has no end, the journal may know more: Optuna hears of an end before the record is written.
    """
    if [each.name.lower() for each in study.directions] != [direction(name) for name in plan.objectives]:
        return "had other objectives"
    trials, ranges = study.get_trials(deepcopy=False), distributions_of(plan.space)
    for trial in trials:
        known = {name: ranges.get(name) for name in trial.distributions}
        if trial.distributions != known or (trial.params and not asks_all(trial, plan.space)):
            return f"had other ranges in {trial_label(trial.number)}"
    for number, record in sorted(records.items()):
        if number >= len(trials) or not agrees(trials[number], record, plan):
            return f"did not agree with the record of {record.label}"
    return ""


def asks_all(trial: FrozenTrial, space: SearchSpace) -> bool:
    """Return True if a trial has a value of each entry that applies, or can still get it."""
    values = values_of(space, trial.params)
    return space.has(values) or (trial.state is OptunaState.RUNNING and may_have(space, values))


def may_have(space: SearchSpace, values: Values) -> bool:
    """Return True if each value is one of its domain, if not all are there yet."""
    parts = {part.name: part.domain for part in space.active_parts(values)}
    return all(name in parts and parts[name].contains(value) for name, value in values.items())


def agrees(trial: FrozenTrial, record: TrialRecord, plan: Plan) -> bool:
    """Return True if a trial of a journal says no other than its record."""
    if values_of(plan.space, trial.params) != record.values or trial.state not in LEFT.get(
        record.state, (trial.state,)
    ):
        return False
    return record.state != "finished" or trial.values == [record.metrics[name] for name in plan.objectives]


def make_again(plan: Plan, records: Records) -> Path | None:
    """Make the journal from records; return the new place of the old one, None if there was none.

    A number without a record waits to be asked for. What is left of its training goes: it gets other values.
    """
    journal, labels = plan.folder / JOURNAL, {record.label for record in records.values()}
    for state in plan.folder.glob(f"trials/trial_*/{STATE_FILE}"):
        if state.parent.name not in labels:
            state.unlink()
    with atomic_path(journal) as temporary:
        study = create(temporary, plan)
        trials = list(make_trials(plan, records))
        recall_evolution(plan, trials)
        study.add_trials(trials)
        skip_points(plan, study, max(records, default=0))
        kept = set_aside(journal)
    return kept


def make_trials(plan: Plan, records: Records) -> Iterator[FrozenTrial]:
    """Make the trials of a journal from the records, as the searcher would have told them, in order."""
    points, waiting, finished = grid_of(plan), enqueued_without_record(plan, records), 0
    for number in range(max(records, default=-1) + 1):
        point = next(points, None)
        if number not in records:
            known = next(waiting, None)
            params = params_of(plan.space, known.values) if known is not None else point
            yield create_trial(
                state=OptunaState.WAITING,
                system_attrs={} if params is None else {"fixed_params": params},
                user_attrs={} if known is None else {ORIGIN: known.origin},
            )
            continue
        yield make_trial(plan, records[number], generation_attribute(plan, finished // population_of(plan)))
        finished += records[number].state == "finished"


def enqueued_without_record(plan: Plan, records: Records) -> Iterator[Enqueued]:
    """Yield the configurations of a plan's queue that no trial with a record has."""
    begun = [{name: r.values[name] for name in r.given} for r in records.values() if r.origin]
    return (one for one in plan.enqueued if one.values not in begun)


def make_trial(plan: Plan, record: TrialRecord, system_attributes: dict[str, Any]) -> FrozenTrial:
    """Make a trial of a journal from its record."""
    avoided = record.state == "failed" and record.reason.startswith((DIVERGED, REFUSED))
    states = {"finished": OptunaState.COMPLETE, "pruned": OptunaState.PRUNED, "failed": OptunaState.FAIL}
    state = OptunaState.PRUNED if avoided else states.get(record.state, OptunaState.RUNNING)
    scores, values = find_progress(plan, record), None
    given = {name: record.values[name] for name in record.given}
    if state is OptunaState.COMPLETE:
        values = [record.metrics[name] for name in plan.objectives]
        system_attributes = system_attributes | constraint_attribute(plan, record.metrics)
    elif state is OptunaState.PRUNED and scores:  # as Optuna does
        values = [scores[max(scores)]]
    return create_trial(
        state=state,
        values=values,
        params=params_of(plan.space, record.values),
        distributions={part.key: distribution_of(part.domain) for part in plan.space.active_parts(record.values)},
        intermediate_values=scores,
        user_attrs=({ORIGIN: record.origin} if record.origin else {}) | ({REASON: record.reason} if avoided else {}),
        system_attrs=system_attributes | ({"fixed_params": params_of(plan.space, given)} if record.origin else {}),
    )


def find_progress(plan: Plan, record: TrialRecord) -> dict[int, float]:
    """Return the objective after each learned task; Optuna takes none with several objectives."""
    if len(plan.objectives) > 1:
        return {}
    (name,), learned = plan.objectives, record.tasks_learned
    found = {step: metrics_after(record, step) for step in range(1, learned)} | {learned: record.metrics}
    return {step: metrics[name] for step, metrics in found.items() if name in metrics}
