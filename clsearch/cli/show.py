"""A study that exists: what it found so far."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml
from rich.console import Console

from clsearch.common.errors import ConfigError
from clsearch.common.formatting import print_full_width, relative_path
from clsearch.records.listing import state_of
from clsearch.records.study_record import read_study
from clsearch.reporting.answer_text import answer, notes, question
from clsearch.reporting.captions import of_cost
from clsearch.reporting.evaluation_text import few_seeds, final_table, opened_of, optimism_of
from clsearch.reporting.html.report import REPORT
from clsearch.reporting.terminal import decision_table, say, tell_best


def show_study(console: Console, folder: Path) -> None:
    """Print what a study found so far. Raises ConfigError where there is none."""
    study = read_study(folder)
    console.print(question(study), style="bold", markup=False, highlight=False)
    say(console, *answer(study), *notes(study), "")
    if study.ranking.trials:
        tell_best(console, study.ranking, study.references, list(study.space))
    if study.decision.attempts:
        print_full_width(console, decision_table(study.decision))
    if study.final is not None:
        print_full_width(console, final_table(study.final))
        say(console, *few_seeds(study.final), *optimism_of(study.final), *opened_of(study.final))
    say(console, *of_cost(study), "")
    rows = [("Record", f"{relative_path(study.folder)}/")]
    rows += [("Report", f"{relative_path(study.folder)}/{REPORT}")] * (study.folder / REPORT).exists()
    if state_of(study.folder, study.study) == "interrupted" and study.study["command"]:
        rows.append(("Go on", shlex.join(study.study["command"])))
    for name, value in rows:
        console.print(f"{name:<8} {value}", highlight=False, markup=False, soft_wrap=True)


def best_of(folder: Path, whole_configuration: bool = False) -> str:
    """The chosen values as YAML, which `--config` takes; of the protocol continual, those of each task, which it does
    not take. whole_configuration: every setting. Raises ConfigError where there is no study, or nothing was chosen yet.
    """
    study = read_study(folder)
    if per_task := study.best.get("per_task"):
        return str(yaml.safe_dump({"per_task": per_task}, sort_keys=False))
    if study.chosen is None:
        raise ConfigError([f"results: must hold a study of which a trial has finished; got {relative_path(folder)}"])
    found = study.chosen.settings if whole_configuration else study.chosen.values
    return str(yaml.safe_dump({name: v for name, v in found.items() if v is not None}, sort_keys=False))
