"""Complete a suggestion that a killed process left unfinished, as that process would have."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from clsearch.config.domains import Plain
from clsearch.execution.optuna_study import (
    asked_of,
    distributions_of,
    params_of,
    sampler_for,
    skip_points,
    suggest_values,
    values_of,
)
from clsearch.planning.plan import Plan

FIXED = "fixed_params"
"""Optuna's attribute of an enqueued trial: its values."""

POSITION = "qmc:"
"""How the attributes of Optuna's studies begin in which qmc keeps its position."""


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
    params = params_of(plan.space, repeat_suggestion(plan, study, trial))
    skip_points(plan, study, max(each.number for each in asked_of(study)))
    if trial.params.items() <= params.items():
        known = distributions_of(plan.space)
        for key in [key for key in params if key not in trial.params]:
            study._storage.set_trial_param(trial._trial_id, key, known[key].to_internal_repr(params[key]), known[key])


def repeat_suggestion(plan: Plan, study: optuna.Study, asked: FrozenTrial) -> dict[str, Plain]:
    """Return the values that a trial gets if it is asked for again, in a copy of its study without it."""
    copy = optuna.create_study(directions=study.directions, sampler=sampler_for(plan, asked.number))
    for key, value in study._storage.get_study_system_attrs(study._study_id).items():
        if not key.startswith(POSITION):
            copy._storage.set_study_system_attr(copy._study_id, key, value)
    for trial in study.get_trials():
        if trial.number == asked.number:
            fixed = {key: value for key, value in asked.system_attrs.items() if key == FIXED}
            trial = create_trial(state=OptunaState.WAITING, system_attrs=fixed, user_attrs=asked.user_attrs)
        copy.add_trial(trial)
    skip_points(plan, copy, asked.number - 1)
    return suggest_values(copy.ask(), plan.space)
