"""What a report says first: the question, the answer in two sentences, what must be known beside it."""

from __future__ import annotations

from clsearch.common.formatting import algorithm_label, humanize, points_suffix, to_display_units, unit_suffix
from clsearch.common.statistics import Interval
from clsearch.records.study_record import Reading

ACCURACY = "average_accuracy"


def question(study: Reading) -> str:
    """What the study asked."""
    return str(study.study["question"]) or f"Which hyperparameters for {algorithm_label(study.study['algorithm'])}?"


def value(number: float, digits: int = 2, name: str = ACCURACY) -> str:
    """A metric, in percent where it is a share."""
    return f"{to_display_units(name, number):.{digits}f}{unit_suffix(name)}"


def ends(found: Interval) -> str:
    """The ends of an interval in percent; of one seed, that there is none."""
    return f"95 % interval {100 * found.low:.2f} to {100 * found.high:.2f}" if found.low == found.low else "one seed"


def settings(values: dict[str, float]) -> str:
    """Hyperparameters in a sentence."""
    said = [f"{humanize(name)} {number:.4g}" for name, number in values.items()]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 2 else said)


def answer(study: Reading) -> list[str]:
    """The chosen values, and what they reach, against finetuning and joint training: two sentences."""
    if study.decision.kept:
        return [decided(study), reached(study)]
    best, trials = study.chosen, study.ranking.trials
    if best is None:
        failed = study.in_state("failed")
        why = f" The first of {len(failed)} that failed: {failed[0].reason}." if failed else ""
        return [f"No trial has finished, so there is no answer.{why}"]
    values = f" with {settings(best.values)}" if best.values else ""
    seeds, others = len(study.study["seeds"]), len(trials) - 1
    alike = f", and {len(study.ranking.close) - 1} of {others} others cannot be told from it" if others else ""
    score = value(best.metrics[study.objective], name=study.objective)
    if study.ranking.front:
        goals = " and ".join(
            f"{humanize(name)} {value(best.metrics[name], name=name)}" for name in study.ranking.objectives
        )
        first = (
            f"{algorithm_label(study.study['algorithm'])}{values} is the knee of a Pareto front of "
            f"{len(study.ranking.front)} of "
            f"{len(trials)} finished trials on validation data, with {goals} over {seeds} seed{'s' * (seeds > 1)}."
        )
        return [first, reached(study)]
    first = (
        f"{algorithm_label(study.study['algorithm'])}{values} has the best "
        f"{humanize(study.objective)} of {len(trials)} finished "
        f"trial{'s' * bool(others)} on validation data, {score} over {seeds} seed{'s' * (seeds > 1)}{alike}."
    )
    return [first, reached(study)]


def decided(study: Reading) -> str:
    """What the continual protocol chose."""
    kept = study.decision.kept
    chosen = "; ".join(f"task {attempt.task}: {settings(attempt.values)}" for attempt in kept)
    return (
        f"{algorithm_label(study.study['algorithm'])}, chosen task by task on the current task's "
        f"validation data: {chosen}."
    )


def reached(study: Reading) -> str:
    """What the choice reaches on test data; without a final evaluation, how it compares in the search."""
    final = study.final
    if final is None or final.reported is None:
        return searched(study)
    row = final.reported
    score = final.intervals(row, "test")[ACCURACY]
    benchmark = f" of {row.benchmark}" if row.benchmark != study.study["config"]["benchmark"] else ""
    tasks = "" if benchmark or row.on == "full_sequence" else f" of tasks {' '.join(map(str, row.tasks))}"
    said = f"On test data{benchmark}{tasks} and {len(final.seeds)} fresh seeds it reaches {value(score.mean)} average "
    said += f"accuracy ({ends(score)})"
    against = []
    for reference in (r for r in final.rows if r.on == row.on):
        found = final.against(reference, "test", ACCURACY)
        if found is not None:
            span = f" ({100 * found.low:+.2f} to {100 * found.high:+.2f})" if found.low == found.low else ""
            against.append(f"{100 * found.mean:+.2f} points{span} against {algorithm_label(reference.algorithm)}")
    return said + (f": {', '.join(against)}" if against else "") + "."


def searched(study: Reading) -> str:
    """What the search's own numbers say against the references'."""
    best, name = study.chosen, study.objective
    said = [
        f"{to_display_units(name, best.metrics[name] - r.metrics[name]):+.2f}{points_suffix(name)} "
        f"against {algorithm_label(r.algorithm)}"
        for r in study.references
        if best is not None and r.state == "finished" and name in r.metrics
    ]
    end = f": {', '.join(said)}" if said else ""
    return f"There is no final evaluation, so there are only the search's own, optimistic numbers{end}."


def notes(study: Reading) -> list[str]:
    """What must be known beside the answer: how far the study is, and which protocol it followed."""
    of = study.study
    ended = sum(record.ended for record in study.trials)
    lines = []
    if of["state"] == "running":
        lines.append("This study is running, or was cut off: the same command goes on with it.")
    if not study.decision.attempts and ended < of["trials"]:
        lines.append(f"{ended} of {of['trials']} trials have ended; what follows is of these.")
    benchmark, scenario = of["config"]["benchmark"], of["config"]["scenario"]
    lines.append(
        f"{benchmark}, {scenario}-incremental, {len(of['tasks'])} tasks seen by the search; protocol "
        f"{humanize(of['protocol'])}; seeds {' '.join(map(str, of['seeds']))}."
    )
    return lines


def missing(study: Reading, part: str) -> list[str]:
    """Why there is no picture."""
    if part == "optimism":
        return ["Optimism is unknown: there is no final evaluation on fresh seeds (--no-final, or it has not ended)."]
    if part in ("response", "importance", "parallel") and not study.space:
        return ["Nothing was searched."]
    if part in ("response", "importance", "parallel", "trade-off") and study.decision.attempts:
        return ["This protocol chooses task by task; attempts.csv has every attempt."]
    if part == "importance" and len(study.space) < 2:
        return ["One hyperparameter was searched: there is nothing to compare its importance with."]
    return ["Too few trials have finished for this picture."]
