"""Trials of a plan's Optuna study, and their values."""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from clsearch.config.domains import Domain, IntRange, Range
from clsearch.config.plain_values import Plain
from clsearch.config.spaces import SearchSpace
from clsearch.planning.plan import Plan
from clsearch.records.trials import Origin, trial_label

ORIGIN = "origin"
"""Attribute of the trials that were not suggested: why they are tried, see `TrialRecord.origin`."""

_ASKED = (OptunaState.RUNNING, OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL)


def asked_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were asked for, in any state, without the queue of a grid."""
    return study.get_trials(deepcopy=False, states=_ASKED)


def suggest_values(trial: optuna.trial.Trial, space: SearchSpace) -> dict[str, Plain]:
    """Ask Optuna for the value of each entry of a space that applies; a trial that has them keeps them.

    Returns:
        Hyperparameter -> plain value.
    """
    values: dict[str, Plain] = {}
    for part in space.parts:
        if part.applies(values):
            values[part.name] = suggest_value(trial, part.key, part.domain)
    return values


def suggest_value(trial: optuna.trial.Trial, key: str, domain: Domain) -> Plain:
    """Ask Optuna for a value of a domain."""
    if isinstance(domain, Range):
        return trial.suggest_float(key, domain.low, float(domain.ends[1] or 0), log=domain.log, step=domain.step)
    if isinstance(domain, IntRange):
        return trial.suggest_int(key, domain.low, int(domain.ends[1] or 0), log=domain.log, step=domain.step)
    return trial.suggest_categorical(key, domain.ends)


def params_of(space: SearchSpace, values: Mapping[str, Plain]) -> dict[str, Plain]:
    """Return the values of a trial by the keys that Optuna knows."""
    return {part.key: values[part.name] for part in space.active_parts(values) if part.name in values}


def values_of(space: SearchSpace, params: Mapping[str, Plain]) -> dict[str, Plain]:
    """Return Optuna's values of a trial by hyperparameter."""
    return {part.name: params[part.key] for part in space.parts if part.key in params}


def fixed_params_of(trial: FrozenTrial) -> dict[str, Plain]:
    """Return the values that a trial was enqueued with, by Optuna's keys; none of a trial that was suggested."""
    return dict(trial.system_attrs.get("fixed_params", {})) if ORIGIN in trial.user_attrs else {}


def origins_of(study: optuna.Study, space: SearchSpace) -> dict[str, Origin]:
    """Return label -> why it is tried, of the trials that were enqueued, asked for or not."""
    return {
        trial_label(trial.number): Origin(trial.user_attrs[ORIGIN], tuple(values_of(space, fixed_params_of(trial))))
        for trial in study.get_trials(deepcopy=False)
        if ORIGIN in trial.user_attrs
    }


def enqueue(study: optuna.Study, plan: Plan) -> None:
    """Queue the configurations that a plan tries first, without those that were queued before."""
    queued = [fixed_params_of(trial) for trial in study.get_trials(deepcopy=False)]
    for one in plan.enqueued:
        if (params := params_of(plan.space, one.values)) not in queued:
            study.enqueue_trial(params, user_attrs={ORIGIN: one.origin})


def next_number(study: optuna.Study) -> int:
    """Return the number of the trial that is asked for next: the first one that waits, or a new one."""
    trials = study.get_trials(deepcopy=False)
    return next((trial.number for trial in trials if trial.state is OptunaState.WAITING), len(trials))
