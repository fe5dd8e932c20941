"""Rank the trials of a study: the choice, and the trials that are not shown to be worse."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from clsearch import metrics
from clsearch.common.statistics import Interval, indistinguishable, paired_difference
from clsearch.config.plain_values import Plain
from clsearch.planning.objectives import choose, is_feasible, pareto_front, show_constraints, sign, violations
from clsearch.planning.plan import Plan
from clsearch.planning.search_fields import write_word
from clsearch.records.json_types import BestJson, CostJson
from clsearch.records.seeds import pair_seeds
from clsearch.records.study_file import ENDED
from clsearch.records.trial_metrics import accuracy_matrices, metric_of_each, metric_per_seed
from clsearch.records.trials import REFUSED, TrialRecord


@dataclass(frozen=True)
class Ranking:
    """Finished trials in order.

    Attributes:
        objectives: The metrics that trials are ranked by.
        trials: The chosen one first, then the rest of the Pareto front (empty for one objective), then the others by
            the first objective.
        close: Labels of trials that are not shown to differ from the chosen one: the paired 95 % interval of their
            difference contains 0 in every objective.
        front: Labels of the Pareto front, if there are several objectives.
        infeasible: Labels of trials that break a constraint. They come last, the nearest first, and are never chosen.
    """

    objectives: tuple[str, ...]
    trials: list[TrialRecord]
    close: frozenset[str]
    front: tuple[str, ...] = ()
    infeasible: frozenset[str] = frozenset()

    @property
    def best(self) -> TrialRecord | None:
        """The best trial that keeps the constraints; for several objectives, the knee of the front."""
        return next(iter(self.feasible), None)

    @property
    def feasible(self) -> list[TrialRecord]:
        """The trials that keep the constraints."""
        return [record for record in self.trials if record.label not in self.infeasible]


@dataclass(frozen=True)
class Choice:
    """The result of a search.

    Attributes:
        label: The label of the chosen trial.
        values: Hyperparameter -> value, for all tasks.
        scores: Metric -> the search's measurement, mean over its seeds.
        per_task: The values of each task, if they differ between tasks (protocol continual).
    """

    label: str
    values: dict[str, Plain]
    scores: dict[str, float]
    per_task: tuple[dict[str, float], ...] = ()


@dataclass(frozen=True)
class Cost:
    """The cost of a search.

    Attributes:
        task_trainings: Number of tasks trained, counted on each seed.
        seconds: Seconds of training in the workers.
        shared: Number of those that were reused from another trial.
        saved: Seconds that the other trials spent on them.
    """

    task_trainings: int
    seconds: float
    shared: int = 0
    saved: float = 0.0

    def as_json(self) -> CostJson:
        """Return its content in best.json."""
        return {
            "task_trainings": self.task_trainings,
            "seconds": self.seconds,
            "shared": self.shared,
            "saved": self.saved,
        }

    def __str__(self) -> str:
        spent = f"{self.task_trainings:,} task-seed trainings, {self.seconds:.0f} s of training time"
        if not self.shared:
            return f"The search cost {spent}."
        return (
            f"The search cost {spent}. {self.shared:,} of them were reused from a trial with an equal first task, "
            f"which saved {self.saved:.0f} s."
        )


def cost_of(records: list[TrialRecord]) -> Cost:
    """Sum the cost of trials without references. A task in which training diverged counts as trained."""
    records = [record for record in records if not record.reason.startswith(REFUSED)]
    tasks = sum(len(r.seeds) * (r.tasks_learned + (r.state == "failed")) for r in records)
    shared = [r for r in records if r.shared_seconds]
    saved = sum(r.shared_seconds for r in shared)
    return Cost(tasks, sum(r.seconds for r in records), sum(len(r.seeds) for r in shared), saved)


def choice_of(ranking: Ranking) -> Choice | None:
    """Return the chosen trial; None if none finished."""
    best = ranking.best
    if best is None:
        return None
    return Choice(best.label, best.values, {name: best.metrics[name] for name in ranking.objectives})


def rank(
    records: list[TrialRecord], objectives: tuple[str, ...], constraints: Mapping[str, float] | None = None
) -> Ranking:
    """Rank finished trials by metrics after the last task; leave out all others.

    If trials differ in seeds, the best is one of those with the most, which come first.

    Args:
        records: The trials.
        objectives: The metrics that they are ranked by.
        constraints: Metric -> the value that a trial must keep to be chosen.
    """
    limits, finished = constraints or {}, [r for r in records if r.state == "finished"]
    broken = [r for r in finished if not is_feasible(limits, r.metrics)]
    finished = [r for r in finished if r not in broken]
    broken.sort(key=lambda r: sum(max(0.0, by) for by in violations(limits, r.metrics)))
    infeasible = frozenset(r.label for r in broken)
    if not finished:
        return Ranking(objectives, broken, frozenset(), (), infeasible)
    gains = np.array([[sign(name) * r.metrics[name] for name in objectives] for r in finished])
    seeds = [len(r.seeds) for r in finished]
    most = [i for i, count in enumerate(seeds) if count == max(seeds)]
    first = most[choose(gains[most])]
    best_ones = [most[i] for i in pareto_front(gains[most])] if len(objectives) > 1 else []
    order = sorted(range(len(finished)), key=lambda i: (i != first, i not in best_ones, -seeds[i], -gains[i, 0]))
    ranked = [finished[i] for i in order]
    close, front = labels_close_to_first(ranked, objectives), tuple(finished[i].label for i in best_ones)
    return Ranking(objectives, [*ranked, *broken], close, front, infeasible)


def labels_close_to_first(ranked: list[TrialRecord], objectives: tuple[str, ...]) -> frozenset[str]:
    """Return the labels of trials that are not shown to differ from the first in any objective, on common seeds."""
    scores = [metric_of_each(ranked, name) for name in objectives]
    return frozenset(
        record.label
        for position, record in enumerate(ranked)
        if all(indistinguishable(*pair_seeds(ranked[0], record, of_each[0], of_each[position])) for of_each in scores)
    )


def difference_to_reference(best: TrialRecord, reference: TrialRecord, name: str) -> Interval:
    """Return a metric of the best trial minus a reference's, paired over the seeds that both have."""
    values = metric_per_seed(best, name), metric_per_seed(reference, name)
    return paired_difference(*pair_seeds(best, reference, *values))


def add_intransigence(records: list[TrialRecord]) -> list[TrialRecord]:
    """Return the finished trials and references with their intransigence against the joint reference, seed by seed.

    Return none if no joint reference finished.
    """
    finished = [r for r in records if r.state == "finished"]
    joint = next((r for r in finished if r.number is None and r.algorithm == "joint"), None)
    if joint is None:
        return []
    found = []
    for record in finished:
        if record is not joint:
            own, upper = pair_seeds(record, joint, accuracy_matrices(record), accuracy_matrices(joint))
            values = metrics.intransigence(np.stack(own), np.stack(upper), record.tasks_learned)
            found.append(replace(record, metrics=record.metrics | metrics.over_seeds({"intransigence": values})))
    return found


def rerun_command(plan: Plan, best: TrialRecord) -> str | None:
    """Return the command that trains the best configuration again as its own study, without opening test data again.

    Hyperparameters that do not apply to the best configuration keep their defaults.

    Return None outside a script, if nothing was searched, because the study's own command does the same, or if the best
    configuration has a value that only Python can name, such as a function that makes a network.
    """
    settings = plan.space.settings_of(best.values)
    if plan.command is None or not plan.space or any(map(callable, settings.values())):
        return None
    words, dropped = [], {"--name", "--trials", "--sampler", "--grid-points", "--sampler-seed", "--pruner"}
    dropped |= {"--cohort", "--no-final", "--report-seeds", "--enqueue", "--warm-start", "--top", "--anyway", "--when"}
    dropped |= {"--constraints", "--hours", "--patience"}
    dropped |= {"--" + name.replace("_", "-") for name in plan.space}
    keep = True
    for word in plan.command:
        if word.startswith("--"):
            keep = word not in dropped
        if keep:
            words.append(word)
    for name, value in settings.items():
        words += ["--" + name.replace("_", "-"), write_word(value)]
    return shlex.join([*words, "--trials", "1", "--no-final", "--name", f"{plan.options.name}-best"])


def best_json(plan: Plan, ranking: Ranking, records: list[TrialRecord], references: list[TrialRecord]) -> BestJson:
    """Return the content of best.json."""
    best, cost = ranking.best, cost_of(records)
    counts = {state: sum(record.state == state for record in records) for state in ENDED}
    if best is None:
        kept = f"no trial keeps the constraints, {show_constraints(plan.constraints)}"
        reason = kept if ranking.trials else "no trial finished"
        return {"label": None, "reason": reason, "trials": counts, "cost": cost.as_json()}
    content: BestJson = {
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
        "cost": cost.as_json(),
        "command": rerun_command(plan, best),
        "references": {},
    }
    for reference in references:
        if reference.state == "finished":
            difference = difference_to_reference(best, reference, ranking.objectives[0])
            content["references"][reference.algorithm] = {
                "metrics": reference.metrics,
                "difference": {"mean": difference.mean, "low": difference.low, "high": difference.high},
            }
        else:
            content["references"][reference.algorithm] = {"state": reference.state, "reason": reference.reason}
    return content
