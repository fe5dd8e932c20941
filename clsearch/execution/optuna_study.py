"""Trials, distributions and sampler of a plan's Optuna study."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from clsearch.common.seeding import derive_seed
from clsearch.config.domains import Domain, IntRange, Plain, Range
from clsearch.config.spaces import SearchSpace
from clsearch.planning.plan import Plan
from clsearch.records.trials import Origin, trial_label
from clsearch.reporting.importances import distribution_of

ORIGIN = "origin"
"""Attribute of the trials that were not suggested: why they are tried, see `TrialRecord.origin`."""

_ASKED = (OptunaState.RUNNING, OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL)


def asked_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were asked for, in any state, without the queue of a grid."""
    return study.get_trials(deepcopy=False, states=_ASKED)


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Convert a space to Optuna's distributions, by the keys of its entries."""
    return {part.key: distribution_of(part.domain) for part in space.parts}


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


def population_of(plan: Plan) -> int:
    """Return the population of nsga2: at least two generations for any budget."""
    return min(50, max(4, plan.trials // 4))


def sampler_for(plan: Plan, number: int) -> BaseSampler:
    """Make the sampler for the suggestion of a trial.

    Its seed is derived from the trial's number, because a fixed seed would repeat the first suggestions after a reload.
    """
    seed = plan.options.sampler_seed
    derived = derive_seed(seed, 0, number, "sampler") % 2**32
    match plan.options.sampler:
        case "tpe":
            with warnings.catch_warnings():  # multivariate is experimental before Optuna 5
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                group = plan.space.conditional
                return TPESampler(seed=derived, constant_liar=True, multivariate=True, group=group)
        case "nsga2":
            return NSGAIISampler(population_size=population_of(plan), seed=derived)
        case "qmc":  # one sequence; Optuna keeps the position in its storage
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = QMCSampler(scramble=True, seed=seed, independent_sampler=RandomSampler(derived))
            if number and optuna.__version__ < "5":  # older versions draw at random until a first trial has its result
                sampler.infer_relative_search_space = lambda *_: distributions_of(plan.space)  # type: ignore[method-assign]
            return sampler
    return RandomSampler(seed=derived)


def generation_attribute(generation: int) -> dict[str, int]:
    """Return the attribute by which nsga2 knows the generation of a trial."""
    key = getattr(NSGAIISampler, "_get_generation_key", lambda: "nsga2:generation")  # the second before Optuna 4.3
    return {key(): generation}


def skip_points(plan: Plan, study: optuna.Study, number: int) -> None:
    """Let qmc go on after the point of a trial; the first trial takes none of its sequence."""
    sampler = sampler_for(plan, number)
    if number and isinstance(sampler, QMCSampler):
        sampler._find_sample_id(study, distributions_of(plan.space))
        position = study._storage.get_study_system_attrs(study._study_id)
        (key,) = (name for name in position if name.startswith("qmc:"))
        study._storage.set_study_system_attr(study._study_id, key, number - 1)
