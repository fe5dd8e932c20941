"""The importance of each searched hyperparameter."""

from __future__ import annotations

from collections.abc import Iterable

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from clsearch.config.domains import Domain, IntRange, Range
from clsearch.config.spaces import SearchSpace
from clsearch.records.trials import TrialRecord

MIN_TRIALS = 4
"""With fewer finished trials no importance is computed."""

EQUAL_WITHIN = 1e-9
"""Scores that differ by less are equal: the mean of the same numbers depends on their order in its last digit."""


def compute_importances(study: optuna.Study) -> dict[str, float]:
    """The share of the variance of the first objective that each hyperparameter explains over finished trials.

    Optuna's fANOVA (Hutter et al. 2014). Empty for fewer than two hyperparameters, few trials, or equal scores.
    """
    done = [t for t in study.get_trials(deepcopy=False) if t.state is optuna.trial.TrialState.COMPLETE]
    scores = [trial.values[0] for trial in done]
    if len(done) < MIN_TRIALS or len(done[0].params) < 2 or max(scores) - min(scores) < EQUAL_WITHIN:
        return {}
    target = (lambda trial: trial.values[0]) if len(study.directions) > 1 else None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        return optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
    except RuntimeError:  # its trees have no variance
        return {}


def study_of(records: Iterable[TrialRecord], space: SearchSpace, objective: str) -> optuna.Study:
    """Make an Optuna study of the finished trials among records, in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for record in records:
        if record.state == "finished":
            value, parts = record.metrics[objective], space.active_parts(record.values)
            trial = optuna.trial.create_trial(
                value=value,
                params={part.key: record.values[part.name] for part in parts},
                distributions={part.key: distribution_of(part.domain) for part in parts},
            )
            study.add_trial(trial)
    return study


def distribution_of(domain: Domain) -> BaseDistribution:
    """Convert a domain to Optuna's distribution of plain values."""
    if isinstance(domain, Range):
        return FloatDistribution(domain.low, float(domain.ends[1] or 0), log=domain.log, step=domain.step)
    if isinstance(domain, IntRange):
        return IntDistribution(domain.low, int(domain.ends[1] or 0), log=domain.log, step=domain.step)
    return CategoricalDistribution(domain.ends)
