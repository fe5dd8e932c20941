"""Complete a suggestion that a killed process left unfinished, as that process would have."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from clsearch.planning.plan import Plan
from clsearch.sampling.samplers import is_position, sampler_for, skip_points
from clsearch.sampling.study import asked_of, suggest_values, values_of

FIXED = "fixed_params"
"""Optuna's attribute of an enqueued trial: its values."""

GENERATION = ":generation"
"""How the attribute of a trial ends that has its generation."""


def resume_suggestion(plan: Plan, study: optuna.Study, trial: FrozenTrial) -> optuna.trial.Trial:
    """Return a trial that an earlier process asked for, with all its values.

    Args:
        plan: The study.
        study: Optuna's study, open.
        trial: The trial, running.
    """
    complete_suggestion(plan, study, trial)
    # Optuna asks the sampler even if all values are known, and some write what they would suggest to the storage.
    study.sampler = RandomSampler(seed=0)
    found = optuna.trial.Trial(study, trial._trial_id)
    study.sampler = sampler_for(plan, trial.number)
    return found


def complete_suggestion(plan: Plan, study: optuna.Study, trial: FrozenTrial) -> None:
    """Write the missing values of a trial that was asked for, of which a killed process has written a part or none.

    A sampler draws the values of a trial one after another, or all at once before the first is written. So all are
    drawn again, in a copy of the study as it was then, and must agree with those that were written. Those of a sampler
    that cannot repeat itself do not, and Optuna suggests the missing ones anew.

    Args:
        plan: The study.
        study: Optuna's study, open.
        trial: The trial, running.
    """
    if plan.space.has(values_of(plan.space, trial.params)):
        return
    copy = repeat_suggestion(plan, study, trial)
    again = copy.get_trials(deepcopy=False)[trial.number]
    skip_points(plan, study, max(each.number for each in asked_of(study)))
    if not trial.params.items() <= again.params.items():
        return
    for key in [key for key in again.params if key not in trial.params]:
        one = again.distributions[key]
        study._storage.set_trial_param(trial._trial_id, key, one.to_internal_repr(again.params[key]), one)
    # What the sampler noted: generations and parents of nsga2.
    for key in [key for key in again.system_attrs if key not in trial.system_attrs]:
        study._storage.set_trial_system_attr(trial._trial_id, key, again.system_attrs[key])
    for key, value in notes_of(copy).items():
        study._storage.set_study_system_attr(study._study_id, key, value)


def repeat_suggestion(plan: Plan, study: optuna.Study, asked: FrozenTrial) -> optuna.Study:
    """Return a copy of a study in which one of its trials was asked for again."""
    copy = optuna.create_study(directions=study.directions, sampler=sampler_for(plan, asked.number))
    for key, value in notes_before(study, asked).items():
        copy._storage.set_study_system_attr(copy._study_id, key, value)
    for trial in study.get_trials():
        if trial.number == asked.number:
            fixed = {key: value for key, value in asked.system_attrs.items() if key == FIXED}
            trial = create_trial(state=OptunaState.WAITING, system_attrs=fixed, user_attrs=asked.user_attrs)
        copy.add_trial(trial)
    skip_points(plan, copy, asked.number - 1)
    suggest_values(copy.ask(), plan.space)
    return copy


def notes_of(study: optuna.Study) -> dict[str, Any]:
    """Return what samplers keep in a study, without the position of qmc."""
    kept = study._storage.get_study_system_attrs(study._study_id)
    return {key: value for key, value in kept.items() if not is_position(key)}


def notes_before(study: optuna.Study, asked: FrozenTrial) -> dict[str, Any]:
    """Return what samplers kept in a study before a trial was asked for.

    The first trial of a generation of nsga2 chooses the parents, which takes random numbers, and keeps them.
    """
    notes = notes_of(study)
    for key, generation in asked.system_attrs.items():
        others = (trial.system_attrs for trial in study.get_trials(deepcopy=False) if trial.number != asked.number)
        if key.endswith(GENERATION) and not any(attributes.get(key) == generation for attributes in others):
            notes.pop(f"{key.removesuffix(GENERATION)}:parent:{generation}", None)
    return notes
