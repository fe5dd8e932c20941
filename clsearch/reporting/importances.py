"""How much each searched hyperparameter matters."""

from __future__ import annotations

import optuna

ENOUGH = 4
"""Finished trials below which nothing can be said."""

ROUNDING = 1e-9
"""Scores that differ by less are equal: means of the same numbers in another order differ in their last digit."""


def importances(study: optuna.Study) -> dict[str, float]:
    """Hyperparameter -> share of the variance of the (first) objective that it explains, over finished trials: fANOVA
    (Hutter et al. 2014), as Optuna has it. Empty for fewer than two hyperparameters, few trials, or equal scores.
    """
    done = [t for t in study.get_trials(deepcopy=False) if t.state is optuna.trial.TrialState.COMPLETE]
    scores = [trial.values[0] for trial in done]
    if len(done) < ENOUGH or len(done[0].params) < 2 or max(scores) - min(scores) < ROUNDING:
        return {}
    target = (lambda trial: trial.values[0]) if len(study.directions) > 1 else None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        return optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
    except RuntimeError:  # it finds no variance in its trees
        return {}
