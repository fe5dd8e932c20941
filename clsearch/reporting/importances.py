"""The importance of each searched hyperparameter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from clsearch.config.domains import Domain, Domains, IntRange, Range
from clsearch.config.spaces import SearchSpace
from clsearch.records.json_types import BestJson
from clsearch.records.trials import TrialRecord

MIN_TRIALS = 4
"""With fewer finished trials no importance is computed."""

EQUAL_WITHIN = 1e-9
"""Scores that differ by less are equal: the mean of the same numbers depends on their order in its last digit."""


@dataclass(frozen=True)
class Importances:
    """Shares of the variance of the first objective.

    Attributes:
        shared: Hyperparameter that every finished trial has -> its share over all finished trials. They sum to 1.
        conditional: Key of another entry of the space -> its share over the finished trials to which it applies. These
            are other trials, so the share does not compare with the others.
    """

    shared: dict[str, float] = field(default_factory=dict)
    conditional: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: BestJson) -> Importances:
        """Read them from best.json."""
        return cls(dict(content.get("importance", {})), dict(content.get("conditional_importance", {})))

    def as_json(self) -> BestJson:
        """Return their entries in best.json."""
        found: BestJson = {"importance": self.shared} if self.shared else {}
        if self.conditional:
            found["conditional_importance"] = self.conditional
        return found


def compute_importances(records: Iterable[TrialRecord], space: SearchSpace, objective: str) -> Importances:
    """The share of the variance of an objective that each hyperparameter explains over finished trials.

    Optuna's fANOVA (Hutter et al. 2014), which needs hyperparameters that all its trials have. A conditional entry is
    therefore compared with what the trials to which it applies have in common.

    Args:
        records: Trials in any state.
        space: The search space.
        objective: The metric.
    """
    done = [record for record in records if record.state == "finished"]
    common, known = find_common_domains(space, done), dict[tuple[str, ...], dict[str, float]]()
    found = Importances(_compute_shares(done, common, objective))
    for part in space.parts:
        own = [record for record in done if part.applies(record.values)]
        if part.name not in common and own:
            labels = tuple(record.label for record in own)
            if labels not in known:  # entries of one condition have the same trials
                known[labels] = _compute_shares(own, find_common_domains(space, own), objective)
            if part.name in known[labels]:
                found.conditional[part.key] = known[labels][part.name]
    return found


def find_common_domains(space: SearchSpace, records: Sequence[TrialRecord]) -> Domains:
    """The hyperparameters that all of these trials have with the same domain; none without a trial."""
    active = [{part.name: part.domain for part in space.active_parts(record.values)} for record in records]
    first = active[0] if active else {}
    return {name: domain for name, domain in first.items() if all(other.get(name) == domain for other in active)}


def _compute_shares(records: Sequence[TrialRecord], domains: Domains, objective: str) -> dict[str, float]:
    """The share of each hyperparameter. Empty if fewer than two vary, and for few trials or equal scores.

    Args:
        records: Finished trials.
        domains: Hyperparameters that they all have.
        objective: The metric.
    """
    varying = [name for name in domains if len({repr(record.values[name]) for record in records}) > 1]
    scores = [record.metrics[objective] for record in records]
    if len(records) < MIN_TRIALS or len(varying) < 2 or max(scores) - min(scores) < EQUAL_WITHIN:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, distributions = optuna.create_study(), {name: distribution_of(d) for name, d in domains.items()}
    for record, score in zip(records, scores, strict=True):
        params = {name: record.values[name] for name in domains}
        study.add_trial(optuna.trial.create_trial(value=score, params=params, distributions=distributions))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
    except RuntimeError:  # its trees have no variance
        return {}


def distribution_of(domain: Domain) -> BaseDistribution:
    """Convert a domain to Optuna's distribution of plain values."""
    if isinstance(domain, Range):
        return FloatDistribution(domain.low, float(domain.ends[1] or 0), log=domain.log, step=domain.step)
    if isinstance(domain, IntRange):
        return IntDistribution(domain.low, int(domain.ends[1] or 0), log=domain.log, step=domain.step)
    return CategoricalDistribution(domain.ends)
