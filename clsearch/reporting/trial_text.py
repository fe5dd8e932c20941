"""Explain the tables of a search and describe its problems, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from clsearch.common.formatting import count_of, format_difference, format_number, humanize, points_suffix
from clsearch.config.trial import TrialConfig
from clsearch.methods.registry import method_named
from clsearch.planning.objectives import sign
from clsearch.planning.plan import Plan
from clsearch.records.attempts import MIN_ACCURACY_SHARE, SCORE, Decision
from clsearch.records.further_seeds import missing_seeds
from clsearch.records.ranking import Ranking, difference_to_reference
from clsearch.records.trials import TrialRecord
from clsearch.reporting.result import StudyResult

CLASSES_SHOWN = 5
"""Classes that are named for each task."""


def explain_ranking(ranking: Ranking, references: Sequence[TrialRecord]) -> list[str]:
    """Explain the table of trials."""
    lines = explain_front(ranking) if ranking.front else []
    lines += _explain_marks(ranking)
    if ranking.infeasible:
        lines.append(
            f"infeasible: {len(ranking.infeasible)} of {len(ranking.trials)} finished trials break a constraint and "
            "are not chosen."
        )
    if known := sum(bool(record.origin) for record in ranking.trials):
        lines.append(
            f"{known} of {len(ranking.trials)} finished trials were tried first, not suggested by the sampler."
        )
    lines += [_compare(ranking, reference) for reference in references if reference.state == "finished"]
    if len(ranking.trials) > 1:
        lines.append(
            "The best trial was selected on these same numbers, so its score and its differences are optimistic."
        )
    return lines


def _explain_marks(ranking: Ranking) -> list[str]:
    """Explain the column `not shown worse` and count the trials that it marks."""
    others = len(ranking.feasible) - 1
    if len(ranking.best.seeds if ranking.best else ()) == 1:
        return [
            "One seed has no interval" + (", so no trial can be shown to be worse than the best." if others else ".")
        ]
    if not others:
        return []
    every = " in every objective" if ranking.front else ""
    differ = len({len(record.seeds) for record in ranking.trials}) > 1
    common = ["Trials with fewer seeds are compared with the best on the seeds that both have."] * differ
    return [
        f"not shown worse: the paired 95 % interval of the difference to the best (Student t over seeds) contains "
        f"0{every}; this holds for {len(ranking.close) - 1} of {others} other trials.",
        *common,
    ]


def _compare(ranking: Ranking, reference: TrialRecord) -> str:
    """The first objective of the best trial minus a reference's."""
    name = ranking.objectives[0]
    difference = difference_to_reference(ranking.trials[0], reference, name)
    ends = [format_number(name, end, signed=True) for end in (difference.low, difference.high)]
    interval = f", 95 % interval {ends[0]} to {ends[1]}" if difference.low == difference.low else ""
    metric = "" if name == "average_accuracy" else f" of {humanize(name)}"
    return f"Against {reference.algorithm}: {format_difference(name, difference.mean)}{metric}{interval}."


def explain_front(ranking: Ranking) -> list[str]:
    """Explain the choice of the knee and its gap to the ends of the front."""
    knee, on_front = ranking.trials[0], [r for r in ranking.trials if r.label in ranking.front]
    names = [humanize(name) for name in ranking.objectives]
    geometry = ": the point farthest beyond the line between the ends of the front" if len(names) == 2 else ""
    lines = [
        f"{len(on_front)} of {len(ranking.feasible)} trials are on the Pareto front of {' and '.join(names)}: no other "
        f"trial is at least as good in all objectives and better in one. The knee has the largest sum of objectives, "
        f"each scaled from 0 (worst on the front) to 1 (best){geometry}."
    ]
    for name, label in zip(ranking.objectives, names, strict=True):
        end = max(on_front, key=lambda record: sign(name) * record.metrics[name])
        if end is not knee:
            gap = format_number(name, sign(name) * (end.metrics[name] - knee.metrics[name]))
            lines.append(
                f"The best {label} on the front is trial {end.number}'s, {gap}{points_suffix(name)} better than the "
                "knee's."
            )
    return [*lines, "With several objectives no trial is stopped early."]


def explain_attempts(plan: Plan, decision: Decision) -> list[str]:
    """Explain the table of attempts of the continual protocol."""
    if decision.choice is None:
        return [f"Nothing was chosen: {decision.reason}."]
    marks = method_named(plan.algorithm).own_hyperparameters
    fixed = {name: getattr(plan.config, name) for name, mark in marks.items() if not mark.decays}
    unchanged = "".join(f" {name} stayed at {value:g}." for name, value in fixed.items())
    score = decision.choice.scores[SCORE]
    return [
        f"bar: {MIN_ACCURACY_SHARE:g} of the best accuracy of plain finetuning on the task. The first value that "
        f"reaches it is kept, else the last one tried.{unchanged}",
        f"Mean accuracy on each task right after learning it: {100 * score:.2f} %. The protocol does not see earlier "
        f"tasks again.",
    ]


def describe_problems(result: StudyResult) -> list[str]:
    """Describe interruptions, failed trials and references, and a missing final evaluation."""
    records = result.records
    lines = [*_describe_death(result), *_describe_interruption(result)]
    lines += [result.search_end] if result.search_end else []
    if failed := [record for record in records if record.state == "failed"]:
        lines.append(f"{len(failed)} of {len(records)} trials failed. The first reason: {failed[0].reason}")
    for reference in result.references:
        if reference.state != "finished":
            lost = ", so intransigence was not measured" if reference.algorithm == "joint" else ""
            lines.append(f"Reference {reference.algorithm} {reference.state}: {reference.reason}{lost}.")
    if result.unsealed:
        lines.append(f"No final evaluation: {result.unsealed}")
    return lines


def _describe_death(result: StudyResult) -> list[str]:
    """Describe what died of Ray. What it was training has not failed."""
    if not (result.died and result.interrupted):
        return []
    return [f"{result.died}. What was running is kept; the command below resumes it."]


def _describe_interruption(result: StudyResult) -> list[str]:
    """Describe the missing part of an interrupted study."""
    plan = result.plan
    unfinished = plan.trials - sum(record.ended for record in result.records)
    if result.decision is None and unfinished and (result.interrupted or not result.search_end):
        return [f"Interrupted: {unfinished} of {plan.trials} trials did not finish."]
    if left := missing_seeds(plan, result.records, result.references):
        return [f"Interrupted: {count_of(len(left), 'training')} on further seeds did not finish."]
    if result.interrupted and result.choice is None:
        return ["Interrupted: nothing was chosen."]
    if result.interrupted and plan.options.final:
        return ["Interrupted: the final evaluation did not finish."]
    return []


def list_task_classes(config: TrialConfig) -> list[str]:
    """The classes of each task, if the user named them and all seeds have the same tasks."""
    if config.source.name != "folder" or config.class_order == "shuffled":
        return []
    from clsearch.tasks.benchmark import classes_of  # torch, which `clsearch show` does not wait for

    lines = []
    for task in range(1, config.tasks + 1):
        names = [config.source.classes[index] for index in classes_of(config, task, 0)]
        more = ", ..." if len(names) > CLASSES_SHOWN else ""
        lines.append(f"task {task}: {', '.join(names[:CLASSES_SHOWN])}{more}")
    return lines
