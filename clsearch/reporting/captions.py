"""What to see in each picture of a report, what a study cost, and how to get the same again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from clsearch import metrics
from clsearch.records.early_stopping import Pruned, saving_of
from clsearch.records.ranking import Cost
from clsearch.records.study_record import Reading
from clsearch.records.trials import TrialRecord
from clsearch.reporting.evaluation_text import optimism_of


def of_response(study: Reading) -> list[str]:
    """What to see in the response surface."""
    counts = {state: len(study.in_state(state)) for state in ("finished", "pruned", "failed")}
    told = [f"{counts['finished']} finished"]
    told += [f"{counts['pruned']} stopped early"] * bool(counts["pruned"]) + [f"{counts['failed']} failed"] * bool(
        counts["failed"]
    )
    seen = (
        "Brighter is better; the ring is the choice. The colours between the dots are interpolated: trust the dots."
        if len(study.space) == 2
        else "A panel per hyperparameter, all others varying; the ring is the choice, bars are the spread over seeds."
    )
    return [
        f"Each dot is a trial ({', '.join(told)}). {seen} A flat region means that the choice within it hardly matters."
    ]


def of_importance(study: Reading) -> list[str]:
    """What to see in the importances."""
    return [
        "How much of the spread of scores each hyperparameter explains over the ranges that were searched (fANOVA, "
        "Hutter et al. 2014). One that explains little may stay where it is; over another range that may be different."
    ]


def of_course(study: Reading) -> list[str]:
    """What to see in the course of each task's accuracy."""
    line = (
        f"A panel per task: its accuracy as later tasks are learned, on {study.measured_on}. Bands are one standard "
        f"deviation over seeds."
    )
    lost, plain = (fall(study, name) for name in ("chosen", "finetuning"))
    if lost is None or plain is None:
        return [line]
    other = "AmnesiacFinetuning" if study.requests else "finetuning"
    return [f"{line} From its peak to the end a task loses {lost:.1f} points on average; with {other} {plain:.1f}."]


def fall(study: Reading, name: str) -> float | None:
    """Average forgetting of a configuration, in points."""
    matrix = study.matrices.get(name)
    if matrix is None or matrix.shape[2] < 2:
        return None
    lost = metrics.forgetting(torch.from_numpy(matrix), matrix.shape[2])
    return None if lost.isnan().all() else 100 * lost.nanmean().item()


def of_forgetting(study: Reading) -> list[str]:
    """What to see in the bars of forgetting."""
    return [
        f"For each task, the best accuracy that it had before the last task minus the accuracy at the end, on "
        f"{study.measured_on}; bars are one standard deviation. Below 0: later tasks helped."
    ]


def of_matrix(study: Reading) -> list[str]:
    """What to see in the accuracy matrix."""
    asked = " Rows are measured after the requests that follow a task; unlearned tasks are shown, too."
    return [
        f"Accuracy (%) of the chosen configuration on each task (columns) after learning each (rows), mean over seeds, "
        f"on {study.measured_on}. The diagonal is what was learned, the last row what is left of it; right of the "
        f"diagonal are tasks not learned yet.{asked * bool(study.requests)}"
    ]


def of_trade_off(study: Reading) -> list[str]:
    """What to see in accuracy against forgetting."""
    return [
        "Up and left is better. On the line are the trials that no other beats in both; far left and low are those "
        "that forget nothing because they learn nothing new. Validation data, the search's seeds."
    ]


def of_optimism(study: Reading) -> list[str]:
    """What to see in the optimism."""
    assert study.final is not None
    return optimism_of(study.final)


def of_parallel(study: Reading) -> list[str]:
    """What to see in the parallel coordinates."""
    return [
        "Each line is a finished trial, the better the redder. Drag along an axis to keep only the lines that pass "
        "there; drag a name to move its axis."
    ]


def of_cost(study: Reading) -> list[str]:
    """What the study cost, and what stopping early saved."""
    spent, pruned = study.best.get("cost"), study.best.get("pruning")
    lines = [str(Cost(**spent))] if spent else []
    if pruned:
        lines += saving_of(Pruned.from_json(pruned), study.study["pruner"], len(study.trials))
    return lines


def of_workers(study: Reading) -> list[str]:
    """What to see in the workers' time."""
    return [
        "A bar is a trial, in the row of the worker slot that it fits into. Gaps are starts of workers, waiting, and "
        "the time between sessions."
    ]


def seconds_table(study: Reading) -> list[list[str]]:
    """Seconds of training by kind: trials by state, references."""
    groups: dict[str, Sequence[TrialRecord]] = {
        f"{state} trials": study.in_state(state) for state in ("finished", "pruned", "failed")
    }
    groups["references"] = study.references
    rows = []
    for name, records in groups.items():
        if seconds := [record.seconds for record in records]:
            rows.append([name, str(len(seconds)), *(f"{x:.1f}" for x in (median(seconds), max(seconds), sum(seconds)))])
    return rows


def of_again(study: Reading) -> list[str]:
    """How to read the commands."""
    if not study.study["command"]:
        return ["The study was started from Python: the script that made it runs it again."]
    return [
        "While this folder is there, the first command prints its record again; with another --results it searches "
        "anew. Where trials run side by side, what each follows from differs every time: two searches have the same "
        "trials on a CPU with --max-concurrent 1. The second trains the chosen configuration alone, and opens no test "
        "data."
    ]


def commands(study: Reading) -> list[str]:
    """The commands that made the study, and that train its choice again."""
    own, again = study.study["command"], study.best.get("command")
    return [*([shlex.join(own)] if own else []), *([again] if again else [])]


def made_with(study: Reading) -> list[list[str]]:
    """Versions, seeds, commit, times."""
    of: dict[str, Any] = study.study
    rows = [["started", of["started"]], ["commit", of["commit"]]]
    rows += [
        ["seeds", " ".join(map(str, of["seeds"]))],
        ["fresh seeds", " ".join(map(str, of["report_seeds"])) or "none"],
    ]
    rows += [["sampler", f"{of['sampler']}, seed {of['sampler_seed']}"], ["test data opened", opened(study)]]
    rows += [[name, version] for name, version in of["versions"].items()]
    return rows


def opened(study: Reading) -> str:
    """When test data was opened, and how often it had been before."""
    if not study.openings:
        return "never by this study"
    said = "; ".join(f"{o.when}, {o.before} times before in this results folder" for o in study.openings)
    return said if study.final is not None else f"{said}; the evaluation did not end"


def footer(studies: Sequence[Reading]) -> str:
    """The last line."""
    made, have = studies[0].study["versions"]["clsearch"], "has" if len(studies) == 1 else "have"
    folders = ", ".join(f"{study.name}/" for study in studies)
    return f"Made by clsearch {made} from {folders}, which {have} all of these numbers."
