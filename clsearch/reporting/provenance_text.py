"""Describe a study's cost, its commands, and the versions that it was made with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from statistics import median

from clsearch.planning.objectives import show_constraints
from clsearch.records.early_stopping import EarlyStopping, describe_saving
from clsearch.records.ranking import Cost
from clsearch.records.study_record import StudyRecord
from clsearch.records.trials import TrialRecord
from clsearch.reporting.evaluation_text import describe_earlier_openings


def describe_cost(study: StudyRecord) -> list[str]:
    """Describe the cost of the search and the savings of early stopping."""
    spent, pruned = study.best.get("cost"), study.best.get("pruning")
    lines = [str(Cost(**spent))] if spent else []
    if pruned:
        lines += describe_saving(EarlyStopping.from_json(pruned), study.study["pruner"], len(study.trials))
    return lines


def make_seconds_rows(study: StudyRecord) -> list[list[str]]:
    """Seconds of training of trials in each state and of references: number, median, maximum, sum."""
    groups: dict[str, Sequence[TrialRecord]] = {
        f"{state} trials": study.in_state(state) for state in ("finished", "pruned", "failed")
    }
    groups["references"] = study.references
    rows = []
    for name, records in groups.items():
        if seconds := [record.seconds for record in records]:
            rows.append([name, str(len(seconds)), *(f"{x:.1f}" for x in (median(seconds), max(seconds), sum(seconds)))])
    return rows


def list_commands(study: StudyRecord) -> list[str]:
    """The command that made the study and the one that trains its choice again, as far as they are known."""
    made, retrain = study.study["command"], study.best.get("command")
    return [*([shlex.join(made)] if made else []), *([retrain] if retrain else [])]


def explain_commands(study: StudyRecord) -> list[str]:
    """Explain the commands."""
    if not study.study["command"]:
        return ["The study was started from Python: run its script again to repeat it."]
    return [
        "While this folder exists, the first command prints its record again; with another --results it repeats the "
        "search. With parallel trials the order of results differs between runs, and the sampler's suggestions with "
        "it: two searches on a CPU have the same trials with --max-concurrent 1. The second command trains the chosen "
        "configuration alone and opens no test data."
    ]


def make_provenance_rows(study: StudyRecord) -> list[list[str]]:
    """Start, commit, seeds, sampler, openings of test data, and versions."""
    content = study.study
    fresh_seeds = " ".join(map(str, content["report_seeds"])) or "none"
    return [
        ["started", content["started"]],
        ["commit", content["commit"]],
        ["seeds", " ".join(map(str, content["seeds"]))],
        ["fresh seeds", fresh_seeds],
        ["sampler", content["sampler"] + ("" if "(" in content["sampler"] else f", seed {content['sampler_seed']}")],
        ["pruner", content["pruner"]],
        *([["constraints", show_constraints(study.constraints)]] if study.constraints else []),
        *([["patience", f"{content['patience']} trials"]] if content.get("patience") else []),
        *([["time limit", f"{content['hours']:g} hours per call"]] if content.get("hours") else []),
        ["test data opened", format_openings(study)],
        *([name, version] for name, version in content["versions"].items()),
    ]


def format_openings(study: StudyRecord) -> str:
    """List the openings of test data, with the number of earlier ones."""
    if not study.openings:
        return "never by this study"
    times = "; ".join(
        f"{opening.when}, had {describe_earlier_openings(opening.before)} in this results folder"
        for opening in study.openings
    )
    return times if study.final is not None else f"{times}; the evaluation did not end"


def write_footer(studies: Sequence[StudyRecord]) -> str:
    """The last line of a page: version and source folders."""
    version = studies[0].study["versions"]["clsearch"]
    folders = ", ".join(f"{study.name}/" for study in studies)
    return f"Made by clsearch {version} from the records in {folders}."
