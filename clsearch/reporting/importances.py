"""The importance of each searched hyperparameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

from clsearch.records.json_types import RangeJson
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


def study_of(records: Iterable[TrialRecord], space: Mapping[str, RangeJson], objective: str) -> optuna.Study:
    """Make an Optuna study of the finished trials among records, in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    distributions: dict[str, BaseDistribution] = {
        name: FloatDistribution(r["low"], r["high"], log=r["log"]) for name, r in space.items()
    }
    for record in records:
        if record.state == "finished":
            value = record.metrics[objective]
            study.add_trial(optuna.trial.create_trial(value=value, params=record.values, distributions=distributions))
    return study
