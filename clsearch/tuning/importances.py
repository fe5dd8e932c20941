"""How much each searched hyperparameter matters."""

from __future__ import annotations

import optuna

ENOUGH = 4
"""Finished trials below which nothing can be said."""


def importances(study: optuna.Study) -> dict[str, float]:
    """Hyperparameter -> share of the variance of the (first) objective that it explains, over finished trials: fANOVA
    (Hutter et al. 2014), as Optuna has it. Empty for fewer than two hyperparameters, few trials, or equal scores.
    """
    done = [t for t in study.get_trials(deepcopy=False) if t.state is optuna.trial.TrialState.COMPLETE]
    if len(done) < ENOUGH or len(done[0].params) < 2 or len({t.values[0] for t in done}) < 2:
        return {}
    target = (lambda trial: trial.values[0]) if len(study.directions) > 1 else None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
