"""The head of a report: the question, the answer in two sentences, and how far the study has come."""

from __future__ import annotations

from collections.abc import Mapping

from clsearch.common.formatting import count_of, format_difference, format_metric, humanize
from clsearch.common.statistics import Interval
from clsearch.config.plain_values import Values, show_value
from clsearch.methods.registry import label_of
from clsearch.planning.objectives import show_constraints
from clsearch.records.ranking import Ranking
from clsearch.records.study_record import StudyRecord
from clsearch.records.trials import TrialRecord

ACCURACY = "average_accuracy"

MOST_DAMAGED = 5
"""Damaged files that are named; the others are counted."""


def write_question(study: StudyRecord) -> str:
    """Give the question of the study, or a default one."""
    return str(study.study["question"]) or f"Which hyperparameters for {label_of(study.study['algorithm'])}?"


def write_answer(study: StudyRecord) -> list[str]:
    """Answer in two sentences: the chosen values, and their scores compared with finetuning and joint training."""
    if study.decision.kept:
        return [_describe_continual_choice(study), _describe_test_score(study)]
    if study.chosen is None and study.ranking.trials:
        return [describe_infeasible(study.ranking, study.constraints)]
    if study.chosen is None:
        return [_describe_no_answer(study)]
    return [_describe_choice(study, study.chosen), _describe_test_score(study)]


def write_notes(study: StudyRecord) -> list[str]:
    """Describe the progress of the study, its data and its protocol."""
    content, lines = study.study, []
    ended = sum(record.ended for record in study.trials)
    if content["state"] == "running":
        lines.append("This study is running or was interrupted; run the same command to resume it.")
    if search_end := study.best.get("search_end"):
        lines.append(search_end)
    elif not study.decision.attempts and ended < content["trials"]:
        lines.append(f"{ended} of {content['trials']} trials have ended; the results cover these.")
    config = content["config"]
    lines.append(
        f"{config['benchmark']}, {config['scenario']}-incremental, {len(content['tasks'])} tasks seen by the search; "
        f"protocol {humanize(content['protocol'])}; seeds {' '.join(map(str, content['seeds']))}."
    )
    for extension in content.get("more_seeds", []):
        which = "every finished trial" if extension["all"] else "the trials not shown worse than the best"
        lines.append(f"Further seeds {' '.join(map(str, extension['seeds']))}, of {which} and the references.")
    return lines + describe_damage(study)


def describe_damage(study: StudyRecord) -> list[str]:
    """Name the files that are damaged, and how they are mended."""
    if not study.damaged:
        return []
    named = [f"Left out, because it is damaged: {damage}." for damage in study.damaged[:MOST_DAMAGED]]
    more = len(study.damaged) - len(named)
    if more:
        named.append(f"Left out, because they are damaged: {count_of(more, 'other file')}.")
    return [*named, "The study's command derives damaged files again, and trains trials again whose record is lost."]


def explain_missing_picture(study: StudyRecord, section: str) -> list[str]:
    """Explain why a section of the report has no picture."""
    if section == "optimism":
        return ["Optimism is unknown: there is no final evaluation on fresh seeds (--no-final, or it has not ended)."]
    if section in ("response", "importance", "parallel") and not study.space:
        return ["Nothing was searched."]
    if section in ("response", "importance", "parallel", "trade-off") and study.decision.attempts:
        return ["This protocol chooses task by task; attempts.csv lists every attempt."]
    if section == "importance" and len(study.space) < 2:
        return ["Only one hyperparameter was searched, so there is no other to compare its importance with."]
    return ["Too few trials have finished for this picture."]


def join_settings(values: Values) -> str:
    """Hyperparameters in a sentence: `distillation factor 0.5 and distillation temperature 2`."""
    parts = [f"{humanize(name)} {show_value(value, 4)}" for name, value in values.items()]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 2 else parts)


def format_ends(found: Interval) -> str:
    """The ends of an interval in percent: `88.52 to 93.48`; `one seed` if it has none."""
    return f"{100 * found.low:.2f} to {100 * found.high:.2f}" if found.low == found.low else "one seed"


def describe_infeasible(ranking: Ranking, constraints: Mapping[str, float]) -> str:
    """Describe a search in which no trial keeps the constraints, and the trial that is nearest to it."""
    nearest = ranking.trials[0]
    found = ", ".join(f"{humanize(name)} {format_metric(name, nearest.metrics[name])}" for name in constraints)
    return (
        f"No trial keeps the constraints, {show_constraints(constraints)}, so none is chosen. The nearest is trial "
        f"{nearest.number}, with {join_settings(nearest.values) or 'the given settings'}: {found}."
    )


def _describe_no_answer(study: StudyRecord) -> str:
    """No trial has finished, with the reason if trials failed; or the record of the best one is lost."""
    if study.lost_choice:
        return (
            f"The record of {study.lost_choice}, the best trial, is missing or damaged, so the trials are not ranked. "
            f"best.json has its values; the study's command trains it again."
        )
    failed = study.in_state("failed")
    why = f" {count_of(len(failed), 'trial')} failed, the first with: {failed[0].reason}." if failed else ""
    return f"No trial has finished, so there is no answer.{why}"


def _describe_choice(study: StudyRecord, best: TrialRecord) -> str:
    """The chosen trial and its validation score."""
    ranking, name = study.ranking, study.objective
    algorithm = label_of(study.study["algorithm"])
    values = f" with {join_settings(best.values)}" if best.values else ""
    seeds, others = count_of(len(best.seeds), "seed"), len(ranking.feasible) - 1
    among = count_of(len(ranking.feasible), "finished trial")
    among += f" with {show_constraints(study.constraints)}" if study.constraints else ""
    if ranking.front:
        scores = " and ".join(
            f"{humanize(metric)} {format_metric(metric, best.metrics[metric])}" for metric in ranking.objectives
        )
        return (
            f"{algorithm}{values} is the knee of the Pareto front, which has {len(ranking.front)} of "
            f"{among}, on validation data: {scores} over {seeds}."
        )
    not_worse = f"; not shown worse: {len(ranking.close) - 1} of {others} other trials" if others else ""
    return (
        f"{algorithm}{values} has the best {humanize(name)} of {among} on "
        f"validation data, {format_metric(name, best.metrics[name])} over {seeds}{not_worse}."
    )


def _describe_continual_choice(study: StudyRecord) -> str:
    """The values that the continual protocol chose for each task."""
    chosen = "; ".join(f"task {attempt.task}: {join_settings(attempt.values)}" for attempt in study.decision.kept)
    algorithm = label_of(study.study["algorithm"])
    return f"{algorithm}, chosen task by task on the current task's validation data: {chosen}."


def _describe_test_score(study: StudyRecord) -> str:
    """The score of the choice on test data and its differences to the references; without one, those of the search."""
    final = study.final
    if final is None or final.reported is None:
        return _describe_search_score(study)
    row = final.reported
    score = final.intervals(row, "test")[ACCURACY]
    interval = f"95 % interval {format_ends(score)}" if score.low == score.low else "one seed"
    if row.benchmark != study.study["config"]["benchmark"]:
        target = f" of {row.benchmark}"
    else:
        target = "" if row.on == "full_sequence" else f" of tasks {' '.join(map(str, row.tasks))}"
    differences = []
    for reference in (r for r in final.rows if r.on == row.on):
        found = final.against(reference, "test", ACCURACY)
        if found is not None:
            ends = f" ({100 * found.low:+.2f} to {100 * found.high:+.2f})" if found.low == found.low else ""
            label = label_of(reference.algorithm)
            differences.append(f"{format_difference(ACCURACY, found.mean)}{ends} against {label}")
    return (
        f"On test data{target} and {count_of(len(final.seeds), 'fresh seed')} it reaches "
        f"{format_metric(ACCURACY, score.mean)} average accuracy ({interval})"
        + (f": {', '.join(differences)}" if differences else "")
        + "."
    )


def _describe_search_score(study: StudyRecord) -> str:
    """The differences to the references that the search measured."""
    best, name = study.chosen, study.objective
    differences = [
        f"{format_difference(name, best.metrics[name] - r.metrics[name])} against {label_of(r.algorithm)}"
        for r in study.references
        if best is not None and r.state == "finished" and name in r.metrics
    ]
    found = f": {', '.join(differences)}" if differences else ""
    return f"There is no final evaluation, only the optimistic numbers of the search itself{found}."
