"""Captions of the report's pictures: what each shows and how to read it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from clsearch import metrics
from clsearch.config.space_parts import Part
from clsearch.records.study_record import StudyRecord
from clsearch.reporting.axes import is_map, name_part
from clsearch.reporting.evaluation_text import describe_optimism
from clsearch.reporting.importances import Importances


def caption_response(study: StudyRecord) -> list[str]:
    """The response surface, or a panel per hyperparameter."""
    counts = {state: len(study.in_state(state)) for state in ("finished", "pruned", "failed")}
    labels = {"finished": "finished", "pruned": "stopped early", "failed": "failed"}
    states = [f"{counts[state]} {label}" for state, label in labels.items() if counts[state] or state == "finished"]
    if study.ranking.infeasible:
        states[0] += f", of which {len(study.ranking.infeasible)} break a constraint"
    if is_map(study.space):
        how = "Brighter is better; the ring is the choice. The colours between the dots are interpolated."
    else:
        how = "A panel per hyperparameter, the others vary; the ring is the choice, bars are the spread over seeds."
    if not all(domain.numeric for domain in study.space.values()):
        how += " Trials with the same choice are beside each other, from the first to the last."
    if study.space.conditional:
        how += " A trial is left out of the panel of a hyperparameter that does not apply to it."
    return [f"Each dot is a trial ({', '.join(states)}). {how} In a flat region the exact value hardly matters."]


def caption_importance(study: StudyRecord, found: Importances) -> list[str]:
    """The importances of the hyperparameters."""
    lines = [
        "How much of the variance of the scores each hyperparameter explains over the searched ranges (fANOVA, Hutter "
        "et al. 2014). A hyperparameter that explains little can keep its value; over other ranges this may differ."
    ]
    done = study.in_state("finished")
    left = [part for part in study.space.parts if part.name not in found.shared and part.key not in found.conditional]
    counts = {part.key: sum(part.applies(record.values) for record in done) for part in study.space.parts}

    def count(parts: Iterable[Part]) -> str:
        return "; ".join(f"{name_part(part)} ({counts[part.key]} of {len(done)} trials)" for part in parts)

    if found.conditional:
        shown = count(part for part in study.space.parts if part.key in found.conditional)
        lines.append(
            f"A conditional hyperparameter has its share over the trials to which it applies, so its bar does not "
            f"compare with those over all trials: {shown}."
        )
    if left:
        lines.append(f"Left out, because too few trials have it, or they differ in nothing else: {count(left)}.")
    return lines


def caption_tasks(study: StudyRecord) -> list[str]:
    """The accuracy of each task over the sequence."""
    line = (
        f"A panel per task: its accuracy as later tasks are learned, on {study.measured_on}. Bands are one standard "
        f"deviation over seeds."
    )
    chosen, finetuning = (mean_forgetting(study, name) for name in ("chosen", "finetuning"))
    if chosen is None or finetuning is None:
        return [line]
    other = "AmnesiacFinetuning" if study.requests else "finetuning"
    return [
        f"{line} From its peak to the end a task loses {chosen:.1f} points on average, with {other} {finetuning:.1f}."
    ]


def mean_forgetting(study: StudyRecord, name: str) -> float | None:
    """Average forgetting of a configuration in points; None without a matrix or with a single task."""
    matrix = study.matrices.get(name)
    if matrix is None or matrix.shape[2] < 2:
        return None
    lost = metrics.forgetting(matrix, matrix.shape[2])
    return None if np.isnan(lost).all() else 100 * float(np.nanmean(lost))


def caption_forgetting(study: StudyRecord) -> list[str]:
    """The forgetting of each task."""
    return [
        f"The best accuracy of each task before the last one was learned, minus its accuracy at the end, on "
        f"{study.measured_on}; error bars are one standard deviation. Below 0 later tasks helped."
    ]


def caption_matrix(study: StudyRecord) -> list[str]:
    """The accuracy matrix of the choice."""
    after_requests = (
        " Rows are measured after the requests that follow a task; they include unlearned tasks."
        if study.requests
        else ""
    )
    return [
        f"Accuracy (%) of the chosen configuration on each task (columns) after learning each task (rows), mean over "
        f"seeds, on {study.measured_on}. The diagonal shows what was learned, the last row what remains at the end; "
        f"cells right of the diagonal are tasks not yet learned.{after_requests}"
    ]


def caption_trade_off(study: StudyRecord) -> list[str]:
    """Accuracy against forgetting."""
    return [
        "Up and left is better. No other trial beats those on the line in both metrics. Trials far left and low forget "
        "nothing because they learn nothing new. Validation data, the search's seeds."
    ]


def caption_optimism(study: StudyRecord) -> list[str]:
    """The optimism of the selection."""
    assert study.final is not None
    return describe_optimism(study.final)


def caption_parallel(study: StudyRecord) -> list[str]:
    """The parallel coordinates of all trials."""
    conditional = study.space.conditional
    unused = " At “not used” are trials to which a hyperparameter does not apply." if conditional else ""
    return [
        f"Each line is a finished trial, redder is better. Drag along an axis to keep only the lines that pass there; "
        f"drag a name to move its axis.{unused}"
    ]


def caption_workers(study: StudyRecord) -> list[str]:
    """The timeline of the workers."""
    return [
        "Each bar is a trial, in the row of a worker slot that was free for it. Gaps are worker starts, waiting, and "
        "time between sessions."
    ]
