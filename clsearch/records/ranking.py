"""Ranking the trials of a study: which is chosen, and which cannot be told from it."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clsearch import metrics
from clsearch.common.statistics import Interval, indistinguishable, paired_difference
from clsearch.metrics import last_rows
from clsearch.planning.objectives import chosen, front, sign
from clsearch.planning.plan import Plan
from clsearch.records.trials import ENDED, TrialRecord


@dataclass(frozen=True)
class Ranking:
    """Finished trials: the chosen one first, then the rest of the Pareto front (of one objective there is none), then
    the others, by the first objective. close: labels of those that cannot be told from the chosen one: the paired 95 %
    interval of their difference contains 0, in every objective. front: labels, where there are several objectives.
    """

    objectives: tuple[str, ...]
    trials: list[TrialRecord]
    close: frozenset[str]
    front: tuple[str, ...] = ()

    @property
    def best(self) -> TrialRecord | None:
        """The best trial; of several objectives the knee of the front (`objectives.knee`)."""
        return self.trials[0] if self.trials else None


@dataclass(frozen=True)
class Choice:
    """What a search ends with. values: hyperparameter -> value, for all tasks. per_task: the values of each task, where
    they differ between tasks (protocol continual). scores: metric -> what the search measured, mean over its seeds.
    """

    label: str
    values: dict[str, float]
    scores: dict[str, float]
    per_task: tuple[dict[str, float], ...] = ()


@dataclass(frozen=True)
class Cost:
    """What a search spent: tasks trained, each on each seed, and seconds of training in the workers. shared: how many
    of those were taken over from another trial; saved: the seconds that it had spent on them.
    """

    task_trainings: int
    seconds: float
    shared: int = 0
    saved: float = 0.0

    def __str__(self) -> str:
        spent = f"{self.task_trainings:,} task-seed trainings, {self.seconds:.0f} s of training time"
        if not self.shared:
            return f"The search cost {spent}."
        return (
            f"The search cost {spent}. {self.shared:,} of them were reused from a trial with an equal first task, "
            f"which saved {self.saved:.0f} s."
        )


def cost_of(records: list[TrialRecord]) -> Cost:
    """The cost of trials, references apart. A task in which training diverged counts as trained."""
    tasks = sum(len(r.seeds) * (r.tasks_learned + (r.state == "failed")) for r in records)
    shared = [r for r in records if r.shared_seconds]
    saved = sum(r.shared_seconds for r in shared)
    return Cost(tasks, sum(r.seconds for r in records), sum(len(r.seeds) for r in shared), saved)


def choice_of(ranking: Ranking) -> Choice | None:
    """The chosen trial; None where none finished."""
    best = ranking.best
    if best is None:
        return None
    return Choice(best.label, best.values, {name: best.metrics[name] for name in ranking.objectives})


def rank(records: list[TrialRecord], objectives: tuple[str, ...]) -> Ranking:
    """Rank by metrics after the last task; unfinished and failed trials are not ranked."""
    finished = [r for r in records if r.state == "finished"]
    if not finished:
        return Ranking(objectives, [], frozenset())
    gains = np.array([[sign(name) * r.metrics[name] for name in objectives] for r in finished])
    first, best_ones = chosen(gains), front(gains) if len(objectives) > 1 else []
    order = sorted(range(len(finished)), key=lambda i: (i != first, i not in best_ones, -gains[i, 0]))
    ranked = [finished[i] for i in order]
    close = {r.label for r in ranked if alike(ranked[0], r, objectives)}
    return Ranking(objectives, ranked, frozenset(close), tuple(finished[i].label for i in best_ones))


def alike(first: TrialRecord, second: TrialRecord, objectives: tuple[str, ...]) -> bool:
    """Whether two trials on the same seeds cannot be told apart in any objective."""
    return all(indistinguishable(per_seed(first, name), per_seed(second, name)) for name in objectives)


def per_seed(record: TrialRecord, name: str, learned: int | None = None) -> list[float]:
    """A metric of each seed, after the tasks that a trial learned, or some of them."""
    return measured(record, learned or record.tasks_learned)[name].tolist()


def against(best: TrialRecord, reference: TrialRecord, name: str) -> Interval:
    """A metric of the best minus a reference's, paired over seeds."""
    return paired_difference(per_seed(best, name), per_seed(reference, name))


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
    return of_numbers(record.accuracy)


def of_numbers(nested: list[Any]) -> Tensor:
    """A tensor from JSON, NaN where that has null."""
    return torch.from_numpy(np.array(nested, dtype=float))


def unlearning_of(record: TrialRecord) -> metrics.Unlearning:
    """What was measured of a trial's unlearning, [M, T+1, T] each; none where nothing was requested."""
    return {name: of_numbers(values) for name, values in record.unlearning.items()}


def measured(record: TrialRecord, learned: int) -> dict[str, Tensor]:
    """Every metric of each seed [M] after some tasks, by name."""
    return metrics.summary(matrices(record), learned) | metrics.unlearning(unlearning_of(record), learned)


def metrics_after(record: TrialRecord, step: int) -> dict[str, float]:
    """The metrics of a trial after an earlier task, as they were reported then."""
    values = measured(record, step)
    if record.columns:
        curve = torch.tensor(record.curve, dtype=torch.float64)
        past = torch.tensor([task <= step for task, _ in record.epochs])
        last = last_rows(curve[past])
        values |= {f"train/{name}": last[:, k] for k, name in enumerate(record.columns)}
    return {name: value for name, value in metrics.over_seeds(values).items() if math.isfinite(value)}


def rerun_command(plan: Plan, best: TrialRecord) -> str | None:
    """The command that trains the best configuration again as a study of its own, without opening test data once more;
    None outside a script, and where nothing was searched, so that the study's own command does that.
    """
    if plan.command is None or not plan.space:
        return None
    words, dropped = [], {"--name", "--trials", "--sampler", "--grid-points", "--sampler-seed", "--pruner"}
    dropped |= {"--cohort", "--no-final", "--report-seeds"}
    dropped |= {"--" + name.replace("_", "-") for name in plan.space}
    keep = True
    for word in plan.command:
        if word.startswith("--"):
            keep = word not in dropped
        if keep:
            words.append(word)
    for name, value in best.values.items():
        words += ["--" + name.replace("_", "-"), repr(value)]
    return shlex.join([*words, "--trials", "1", "--no-final", "--name", f"{plan.options.name}-best"])


def best_content(
    plan: Plan, ranking: Ranking, records: list[TrialRecord], references: list[TrialRecord]
) -> dict[str, Any]:
    """What best.json holds."""
    best, cost = ranking.best, cost_of(records)
    counts = {state: sum(record.state == state for record in records) for state in ENDED}
    if best is None:
        return {"label": None, "reason": "no trial finished", "trials": counts, "cost": asdict(cost)}
    content: dict[str, Any] = {
        "label": best.label,
        "number": best.number,
        "values": best.values,
        "config": best.settings,
        "seeds": list(best.seeds),
        "metrics": best.metrics,
        "objectives": list(ranking.objectives),
        "front": list(ranking.front),
        "indistinguishable": [r.label for r in ranking.trials[1:] if r.label in ranking.close],
        "trials": counts,
        "cost": asdict(cost),
        "command": rerun_command(plan, best),
        "references": {},
    }
    for reference in references:
        if reference.state == "finished":
            difference = against(best, reference, ranking.objectives[0])
            content["references"][reference.algorithm] = {
                "metrics": reference.metrics,
                "difference": {"mean": difference.mean, "low": difference.low, "high": difference.high},
            }
        else:
            content["references"][reference.algorithm] = {"state": reference.state, "reason": reference.reason}
    return content
