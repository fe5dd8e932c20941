"""List a study's files, report and MLflow pages, and the commands that continue from it."""

from __future__ import annotations

import shlex

from clsearch.common.formatting import relative_path
from clsearch.records.ranking import rerun_command
from clsearch.reporting.file_names import PICTURES, REPORT
from clsearch.reporting.result import StudyResult


def list_locations(result: StudyResult, mlflow: tuple[str, str]) -> list[tuple[str, str]]:
    """(label, path, address or command) of everything a study wrote. mlflow: the row that names its runs' store."""
    plan, folder = result.plan, relative_path(result.plan.folder)
    rows = [("Record", f"{folder}/ ({', '.join(_list_files(result))})")]
    if (plan.folder / REPORT).exists():
        rows.append(("Report", f"{folder}/{REPORT}"))
    rows += [("Picture", f"{folder}/{name}") for name in PICTURES if (plan.folder / name).exists()]
    rows += [mlflow, *result.pages.items()]
    if result.best is not None and (command := rerun_command(plan, result.best)):
        rows.append(("Retrain", command))
    if result.interrupted:
        rows.append(("Resume", shlex.join(plan.command) if plan.command else "run the same study again"))
    return rows


def _list_files(result: StudyResult) -> list[str]:
    """Names of the files of a study's record."""
    search = ["attempts.csv"] if result.decision is not None else ["trials.csv", "references.csv", "trials/"]
    names = ["study.json", *search, "best.json"]
    if result.ranking.front:
        names.append("front.csv")
    if result.final is not None:
        names += ["final.json", "final.csv"]
    return names
