"""`clsearch show` and `clsearch best`: print an existing study."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.formatting import relative_path
from clsearch.records.listing import study_state
from clsearch.records.study_record import StudyRecord, read_study
from clsearch.reporting.answer_text import describe_damage, write_answer, write_notes, write_question
from clsearch.reporting.file_names import REPORT
from clsearch.reporting.provenance_text import describe_cost
from clsearch.reporting.terminal import print_attempts, print_best, print_evaluation, print_lines, print_rows


def print_study(console: Console, folder: Path) -> None:
    """Print the results of a study so far. Raises ConfigError if the folder holds no study."""
    study = read_study(folder)
    console.print(write_question(study), style="bold", markup=False, highlight=False)
    print_lines(console, *write_answer(study), *write_notes(study), "")
    if study.ranking.trials:
        print_best(console, study.ranking, study.references, list(study.space))
    if study.decision.attempts:
        print_attempts(console, study.decision)
    if study.final is not None:
        print_evaluation(console, study.final)
    print_lines(console, *describe_cost(study), "")
    print_rows(console, list_study_locations(study))


def list_study_locations(study: StudyRecord) -> list[tuple[str, str]]:
    """(label, path or command): record and report; the command that resumes an interrupted study."""
    folder = relative_path(study.folder)
    rows = [("Record", f"{folder}/")]
    if (study.folder / REPORT).exists():
        rows.append(("Report", f"{folder}/{REPORT}"))
    if study_state(study.folder, study.study) == "interrupted" and study.study["command"]:
        rows.append(("Resume", shlex.join(study.study["command"])))
    return rows


def format_several(folder: Path, top: int, every_setting: bool = False) -> str:
    """The best configurations as a YAML list that `--enqueue` takes, best first.

    Args:
        folder: Folder of a study.
        top: Number of configurations.
        every_setting: Whether to include the settings that were not searched.

    Raises:
        ConfigError: There is no study, it has no such list, or fewer than one configuration is asked for.
    """
    if top < 1:
        raise ConfigError([Refusal("greater-than-equal", f"top: must be greater than or equal to 1; got {top}")])
    study = read_study(folder)
    for line in describe_damage(study):
        print(line, file=sys.stderr)
    if not study.ranking.trials:
        text = f"results: must hold a study of which a trial has finished; got {relative_path(folder)}"
        raise ConfigError([Refusal("trial-finished", text)])
    listed = [
        {name: value for name, value in record.settings.items() if value is not None or name in record.values}
        if every_setting
        else record.values
        for record in study.ranking.trials[:top]
    ]
    return str(yaml.safe_dump(listed, sort_keys=False, allow_unicode=True))


def format_best(folder: Path, every_setting: bool = False) -> str:
    """The chosen values as YAML.

    Args:
        folder: Folder of a study.
        every_setting: Whether to include the settings that were not searched.

    Returns:
        YAML that `--config` of a study takes; with protocol continual the values of each task, which it does not take.

    Raises:
        ConfigError: There is no study, or it has not chosen yet.
    """
    study = read_study(folder)
    for line in describe_damage(study):
        print(line, file=sys.stderr)
    if per_task := study.best.get("per_task"):
        return str(yaml.safe_dump({"per_task": per_task}, sort_keys=False))
    if study.lost_choice:
        values, settings = study.best["values"], study.best["config"]
    elif study.chosen is not None:
        values, settings = study.chosen.values, study.chosen.settings
    else:
        text = f"results: must hold a study of which a trial has finished; got {relative_path(folder)}"
        raise ConfigError([Refusal("trial-finished", text)])
    others = {name: value for name, value in settings.items() if every_setting and value is not None}
    searched = {name: as_yaml(value) for name, value in study.space.settings_of(values).items()}
    return str(yaml.safe_dump(others | searched, sort_keys=False))


def as_yaml(setting: Any) -> Any:
    """A setting as YAML has it: widths of layers as a list."""
    return list(setting) if isinstance(setting, tuple) else setting
