"""The samplers of a plan's Optuna study.

A sampler is made anew for each trial. What it must remember lies in Optuna's storage (the generations of nsga2, nsga3
and cmaes, the position of qmc), or follows from the trials (tpe, gp), so a study that is resumed suggests what an
unbroken one would.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from clsearch.common.seeding import derive_seed
from clsearch.config.spaces import SearchSpace
from clsearch.planning.objectives import direction, violations
from clsearch.planning.plan import Plan
from clsearch.planning.samplers import optuna_version
from clsearch.reporting.importances import distribution_of

Distributions = Mapping[str, BaseDistribution]
"""Key of an entry of a space -> its distribution."""

CONSTRAINTS = "constraints"
"""Optuna's attribute of a trial: by how much it breaks each constraint. All versions of Optuna read this form."""

GENETIC = {"nsga2": NSGAIISampler, "nsga3": NSGAIIISampler}


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Convert a space to Optuna's distributions, by the keys of its entries."""
    return {part.key: distribution_of(part.domain) for part in space.parts}


def population_of(plan: Plan) -> int:
    """Return the population of nsga2 and nsga3: at least two generations for any budget."""
    return min(50, max(4, plan.trials // 4))


def sampler_for(plan: Plan, number: int) -> BaseSampler:
    """Make the sampler for the suggestion of a trial; a sampler that the script made is used as it is.

    Its seed is derived from the trial's number, because a fixed seed would repeat the first suggestions after a reload.
    """
    if not isinstance(plan.options.sampler, str):
        made: BaseSampler = plan.options.sampler
        return made
    seed = derive_seed(plan.options.sampler_seed, 0, number, "sampler") % 2**32
    with warnings.catch_warnings():  # experimental samplers and arguments before Optuna 5
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _make_sampler(plan, seed)


def _make_sampler(plan: Plan, seed: int) -> BaseSampler:
    limits: dict[str, Any] = {"constraints_func": read_violations} if plan.constraints and _needs_function() else {}
    match plan.options.sampler:
        case "tpe":
            return TPESampler(seed=seed, constant_liar=True, multivariate=True, group=plan.space.conditional, **limits)
        case "nsga2" | "nsga3" as name:
            return GENETIC[name](population_size=population_of(plan), seed=seed, **limits)
        case "gp":
            return GPSampler(seed=seed, **limits)
        case "cmaes":
            return CmaEsSampler(seed=seed)
        case "qmc":
            return SpreadSampler(distributions_of(plan.space), plan.options.sampler_seed, seed)
    return RandomSampler(seed=seed)


class SpreadSampler(QMCSampler):
    """One Sobol sequence over a whole space. Optuna keeps the position in its storage.

    Optuna's own takes the space of the first trial, which lacks conditional parts, and before Optuna 5 it draws choices
    at random. Here each part has a coordinate; that of a part that does not apply to a trial is not used.

    Args:
        space: The distributions.
        seed: Of the sequence.
        first_seed: Of the first trial, which takes none of the sequence, as in Optuna.
    """

    def __init__(self, space: Distributions, seed: int, first_seed: int) -> None:
        super().__init__(scramble=True, seed=seed, independent_sampler=RandomSampler(first_seed))
        self.space = dict(space)

    @property
    def coordinates(self) -> dict[str, BaseDistribution]:
        """The space with a number from 0 to n for a choice among n."""
        return {
            key: FloatDistribution(0, len(one.choices)) if isinstance(one, CategoricalDistribution) else one
            for key, one in self.space.items()
        }

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space if trial.number else {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        values = super().sample_relative(study, trial, self.coordinates)
        for key, one in self.space.items():
            if isinstance(one, CategoricalDistribution):
                values[key] = one.choices[min(int(values[key]), len(one.choices) - 1)]
        return values

    def skip_to(self, study: optuna.Study, position: int) -> None:
        """Go on after a position of the sequence."""
        arguments: Any = (study, self.coordinates)[: len(inspect.signature(self._find_sample_id).parameters)]
        self._find_sample_id(*arguments)  # Optuna 4.0 takes no space
        known = study._storage.get_study_system_attrs(study._study_id)
        (key,) = filter(is_position, known)
        study._storage.set_study_system_attr(study._study_id, key, position)


def is_position(key: str) -> bool:
    """Return True for the attribute of a study in which qmc keeps its position; the second is that of Optuna 4.0."""
    return key.startswith("qmc:") or key.endswith("last sample id")


def skip_points(plan: Plan, study: optuna.Study, number: int) -> None:
    """Let qmc go on after the point of a trial; the first trial takes none of its sequence."""
    sampler = sampler_for(plan, number)
    if number and isinstance(sampler, SpreadSampler):
        sampler.skip_to(study, number - 1)


def generation_attribute(plan: Plan, generation: int) -> dict[str, int]:
    """Return the attribute by which nsga2 and nsga3 know the generation of a trial; none for another sampler."""
    made = GENETIC.get(plan.options.sampler) if isinstance(plan.options.sampler, str) else None
    if made is None:
        return {}
    older = f"{plan.options.sampler}:generation"  # before Optuna 4.3
    return {getattr(made, "_get_generation_key", lambda: older)(): generation}


def recall_evolution(plan: Plan, trials: Sequence[FrozenTrial]) -> None:
    """Derive again what cmaes keeps in the attributes of its trials, and add it to them.

    It follows from the trials that had ended when cmaes was asked: here all earlier ones, as with one worker.

    Args:
        plan: The study.
        trials: All its trials, in order, without these attributes.
    """
    if plan.options.sampler != "cmaes":
        return
    begun = optuna.create_study(direction=direction(plan.objectives[0]))
    storage = begun._storage
    for number, trial in enumerate(trials):
        replay = optuna.load_study(study_name=begun.study_name, storage=storage)  # a study remembers earlier trials
        if trial.state is OptunaState.WAITING:
            replay.add_trial(trial)
            continue
        replay.add_trial(create_trial(state=OptunaState.RUNNING))
        asked, sampler = replay.get_trials(deepcopy=False)[number], sampler_for(plan, number)
        sampler.sample_relative(replay, asked, sampler.infer_relative_search_space(replay, asked))
        trial.system_attrs = {**trial.system_attrs, **storage.get_trial(asked._trial_id).system_attrs}
        for key, one in trial.distributions.items():
            storage.set_trial_param(asked._trial_id, key, one.to_internal_repr(trial.params[key]), one)
        storage.set_trial_state_values(asked._trial_id, trial.state, trial.values)


def set_constraints(plan: Plan, trial: optuna.trial.Trial, metrics: Mapping[str, float]) -> None:
    """Let Optuna know by how much a finished trial breaks the constraints, before it is told of its end."""
    if plan.constraints:
        broken = violations(plan.constraints, metrics)
        trial.storage.set_trial_system_attr(trial._trial_id, CONSTRAINTS, broken)


def keeps_constraints(trial: FrozenTrial) -> bool:
    """Return True for a finished trial that breaks no constraint."""
    return all(by <= 0 for by in read_violations(trial))


def constraint_attribute(plan: Plan, metrics: Mapping[str, float]) -> dict[str, list[float]]:
    """Return the attribute of a finished trial that `set_constraints` sets."""
    return {CONSTRAINTS: violations(plan.constraints, metrics)} if plan.constraints else {}


def _needs_function() -> bool:
    """Return True for versions of Optuna whose samplers heed constraints only if they compute them."""
    return optuna_version() < (5, 0)


def read_violations(trial: FrozenTrial) -> Sequence[float]:
    """Return what was set before; none for a trial that was stopped early."""
    found: Sequence[float] = trial.system_attrs.get(CONSTRAINTS, ())
    return found
