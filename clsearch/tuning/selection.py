"""Ranking the trials of a study, saying which cannot be told from the best, opening test data for the chosen one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clsearch.core import metrics
from clsearch.core.algorithms import Course
from clsearch.core.config import TrialConfig
from clsearch.core.held_out import held_out_samples
from clsearch.core.loop import accuracies, learn_task
from clsearch.core.run import build_run
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


def with_intransigence(records: list[TrialRecord]) -> list[TrialRecord]:
    """The finished trials and references with their intransigence against the joint reference, seed by seed; none
    where no joint reference finished.
    """
    finished = [r for r in records if r.state == "finished"]
    joint = next((r for r in finished if r.number is None and r.algorithm == "joint"), None)
    if joint is None:
        return []
    upper = matrices(joint)
    found = []
    for record in finished:
        if record is not joint:
            values = metrics.intransigence(matrices(record), upper, record.tasks_learned)
            found.append(replace(record, metrics=record.metrics | metrics.over_seeds({"intransigence": values})))
    return found


def matrices(record: TrialRecord) -> Tensor:
    """R of each seed, [M, T+1, T], NaN where not measured."""
    return torch.from_numpy(np.array(record.accuracy, dtype=float))


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
        else:
            content["references"][reference.algorithm] = {"state": reference.state, "reason": reference.reason}
    return content


def final_accuracy(config: TrialConfig, seeds: Sequence[int], searched: Sequence[int]) -> Tensor:
    """Train a chosen configuration on fresh seeds, then open the test data: the one function that does.

    searched: the seeds that the choice was made on. Returns the test accuracy of every task after the last, [M, T].
    Raises ValueError where a seed was searched on, and DivergedError.
    """
    if used := sorted({*seeds} & {*searched}):
        raise ValueError(f"seeds: must be fresh, none that the search used; got {' '.join(map(str, used))} among them")
    run = build_run(config, seeds)
    state, T = run.initial_state(), config.tasks
    if run.course is Course.JOINT:  # earlier joint models are not asked for
        state = replace(state, tasks_learned=T - 1)
    networks = []
    while state.tasks_learned < T:
        state = learn_task(run, state)
        networks.append(state.params)
    held_out = held_out_samples(config, run.benchmark)
    if run.course is Course.INDEPENDENT:
        own = [accuracies(run, params, t, held_out)[:, t - 1] for t, params in enumerate(networks, start=1)]
        return torch.stack(own, 1)
    return accuracies(run, state.params, T, held_out)
