"""`clsearch`, or `python -m clsearch`: what is done with studies that exist."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tyro

Folders = tyro.conf.Positional[list[Path]]
Folder = tyro.conf.Positional[Path]


def list_studies(results: tyro.conf.Positional[Path] = Path("results")) -> int:
    """The studies of a results folder, with state and best.

    Args:
        results: Folder that keeps the records of studies.
    """
    from rich.console import Console

    from clsearch.common.formatting import print_full_width
    from clsearch.records.listing import list_table, studies_in

    entries = studies_in(results.expanduser())
    if not entries:
        print(f"no study in {results}")
        return 0
    print_full_width(Console(), list_table(entries))
    return 0


def show(folder: Folder) -> int:
    """What a study found so far: the answer, the best trials, the final evaluation.

    Args:
        folder: Folder of a study, results/<study>.
    """
    from rich.console import Console

    from clsearch.cli.show import show_study

    show_study(Console(), folder)
    return 0


def best(folder: Folder, whole: bool = False) -> int:
    """The chosen hyperparameters, as YAML that --config of a study takes; of the protocol continual, each task's.

    Args:
        folder: Folder of a study, results/<study>.
        whole: Every setting of the chosen configuration, not only what was searched.
    """
    from clsearch.cli.show import best_of

    print(best_of(folder, whole), end="")
    return 0


def rerun(
    folder: Folder, trial: str, data_root: Path | None = None, device: Literal["cpu", "cuda"] = "cpu", cpus: int = 1
) -> int:
    """Train a trial again, here, and say whether its accuracy matrix is equal. Exit code 1 where it is not.

    Args:
        folder: Folder of a study, results/<study>.
        trial: Number of the trial, or a reference: finetuning, joint, independent.
        data_root: Where the data sets are, unless where they were.
        device: Where to train.
        cpus: Threads to train with; as --cpus-per-trial of the study for the same arithmetic.
    """
    from clsearch.execution.rerun import rerun as train_again
    from clsearch.execution.rerun import told

    found = train_again(folder, trial, data_root, device, cpus, lambda said: print(said, file=sys.stderr))
    print("\n".join(told(found)))
    return 0 if found.equal else 1


def sync(folders: Folders, tracking_uri: str | None = None) -> int:
    """Bring MLflow up to date with the records of studies.

    Sending twice changes nothing.

    Args:
        folders: Folders of studies, results/<study>.
        tracking_uri: MLflow tracking server or store. Unless given: MLFLOW_TRACKING_URI, or SQLite in results.
    """
    from clsearch.common.errors import ConfigError
    from clsearch.common.formatting import without_password
    from clsearch.tracking.sync import sync as sync_one

    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    for folder in some(folders):
        try:
            print(sync_one(folder, uri))
        except ConfigError:
            raise
        except Exception as error:  # stores raise many types
            said = str(error).replace(uri or "", without_password(uri or "")).strip().partition("\n")[0][:300]
            print(
                f"error: MLflow did not take the records of {folder} ({type(error).__name__}: {said})", file=sys.stderr
            )
            return 1
    return 0


def report(folders: Folders, output: Path = Path("comparison.html")) -> int:
    """Write the reports of studies again, and of several a page that compares them.

    Args:
        folders: Folders of studies, results/<study>.
        output: The page that compares them, where there are several.
    """
    from clsearch.common.formatting import relative_path
    from clsearch.reporting.html.report import write_comparison, write_report

    try:
        paths = [write_report(folder) for folder in some(folders)]
        if len(folders) > 1:
            paths.append(write_comparison(folders, output.expanduser()))
    except OSError as error:
        print(f"error: output: must be a file that can be written; got {error}", file=sys.stderr)
        return 1
    for path in paths:
        print(relative_path(path))
    return 0


def doctor(results: Path = Path("results"), data_root: Path | None = None, tracking_uri: str | None = None) -> int:
    """Look at what studies need here: versions, devices, Ray, MLflow, data, disk. Exit code 1 where there is a problem.

    Args:
        results: Folder that would keep the records of studies.
        data_root: Folder of torchvision's files.
        tracking_uri: MLflow tracking server or store. Unless given: MLFLOW_TRACKING_URI, or SQLite in results.
    """
    from rich.console import Console

    from clsearch.cli.doctor import examine
    from clsearch.common.formatting import make_table

    console, problems = Console(), 0
    table = make_table()
    for name in ("", "found", "what to do"):
        table.add_column(name, overflow="fold")
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    with console.status("looking"):
        for finding in examine(results.expanduser(), None if data_root is None else data_root.expanduser(), uri):
            table.add_row(finding.what, finding.found, finding.remedy, style="bold red" if finding.remedy else None)
            problems += bool(finding.remedy)
    console.print(table)
    console.print(
        f"{problems} problem{'s' * (problems != 1)}." if problems else "Nothing stands in the way of a study."
    )
    return 1 if problems else 0


def some(folders: list[Path]) -> list[Path]:
    """Folders. Raises ConfigError where there is none."""
    from clsearch.common.errors import ConfigError

    if not folders:
        raise ConfigError(["folders: must name at least one study, results/<study>; got none"])
    return folders


COMMANDS: dict[str, Callable[..., int]] = {
    "list": list_studies,
    "show": show,
    "best": best,
    "rerun": rerun,
    "report": report,
    "sync": sync,
    "doctor": doctor,
}


def main(args: list[str] | None = None) -> int:
    """The command line. Exit codes: 0 done; 1 not done, or not equal; 2 refused."""
    from clsearch.common.errors import CLOSED_STDOUT_EXIT_CODE, ConfigError, print_problems, silence_closed_stdout

    try:
        return int(tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="clsearch", description=__doc__, args=args))
    except ConfigError as error:
        print_problems(error)
        return 2
    except BrokenPipeError:
        if silence_closed_stdout():
            return CLOSED_STDOUT_EXIT_CODE
        raise
