"""Trials of a plan's Optuna study, and their values."""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from clsearch.config.domains import Domain, IntRange, Plain, Range
from clsearch.config.spaces import SearchSpace

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
        return trial.suggest_float(key, domain.low, domain.high, log=domain.log, step=domain.step)
    if isinstance(domain, IntRange):
        return trial.suggest_int(key, domain.low, int(domain.ends[1] or 0), log=domain.log, step=domain.step)
    return trial.suggest_categorical(key, domain.ends)


def params_of(space: SearchSpace, values: Mapping[str, Plain]) -> dict[str, Plain]:
    """Return the values of a trial by the keys that Optuna knows."""
    return {part.key: values[part.name] for part in space.active_parts(values) if part.name in values}


def values_of(space: SearchSpace, params: Mapping[str, Plain]) -> dict[str, Plain]:
    """Return Optuna's values of a trial by hyperparameter."""
    return {part.name: params[part.key] for part in space.parts if part.key in params}


def next_number(study: optuna.Study) -> int:
    """Return the number of the trial that is asked for next: the first one that waits, or a new one."""
    trials = study.get_trials(deepcopy=False)
    return next((trial.number for trial in trials if trial.state is OptunaState.WAITING), len(trials))
