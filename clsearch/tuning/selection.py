"""Ranking the trials of a study, and saying which cannot be told from the best."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from clsearch.core.statistics import Interval, indistinguishable, paired_difference
from clsearch.tuning.plan import Plan
from clsearch.tuning.records import TrialRecord
from clsearch.tuning.search import OBJECTIVE


@dataclass(frozen=True)
class Ranking:
    """Finished trials, best first. close: labels of those whose paired 95 % interval to the best contains 0."""

    trials: list[TrialRecord]
    close: frozenset[str]

    @property
    def best(self) -> TrialRecord | None:
        return self.trials[0] if self.trials else None


def rank(records: list[TrialRecord]) -> Ranking:
    """Rank by validation average accuracy after the last task; unfinished and failed trials are not ranked."""
    finished = [r for r in records if r.state == "finished"]
    ranked = sorted(finished, key=lambda r: r.metrics[OBJECTIVE], reverse=True)
    close = {r.label for r in ranked if indistinguishable(ranked[0].per_seed(), r.per_seed())}
    return Ranking(ranked, frozenset(close))


def against(best: TrialRecord, reference: TrialRecord) -> Interval:
    """Average accuracy of the best minus a reference's, paired over seeds."""
    return paired_difference(best.per_seed(), reference.per_seed())


def rerun_command(plan: Plan, best: TrialRecord) -> str | None:
    """The command that trains the best configuration again as a study of its own; None outside a script."""
    if plan.command is None:
        return None
    words, dropped = [], {"--name", "--trials", "--sampler", "--grid-points", "--sampler-seed"}
    dropped |= {"--" + name.replace("_", "-") for name in plan.space}
    keep = True
    for word in plan.command:
        if word.startswith("--"):
            keep = word not in dropped
        if keep:
            words.append(word)
    for name, value in best.values.items():
        words += ["--" + name.replace("_", "-"), repr(value)]
    return shlex.join([*words, "--trials", "1", "--name", f"{plan.options.name}-best"])


def best_content(plan: Plan, ranking: Ranking, references: list[TrialRecord]) -> dict[str, Any]:
    """What best.json holds."""
    best = ranking.best
    if best is None:
        return {"label": None, "reason": "no trial finished"}
    content: dict[str, Any] = {
        "label": best.label,
        "number": best.number,
        "values": best.values,
        "config": best.settings,
        "seeds": list(best.seeds),
        "metrics": best.metrics,
        "indistinguishable": [r.label for r in ranking.trials[1:] if r.label in ranking.close],
        "command": rerun_command(plan, best),
        "references": {},
    }
    for reference in references:
        if reference.state == "finished":
            difference = against(best, reference)
            content["references"][reference.algorithm] = {
                "metrics": reference.metrics,
                "difference": {"mean": difference.mean, "low": difference.low, "high": difference.high},
            }
    return content
