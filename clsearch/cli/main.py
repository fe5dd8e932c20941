"""The command line: `clsearch`, or `python -m clsearch`. Each command is a function of this module."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, Literal

import tyro

Folders = tyro.conf.Positional[list[Path]]
Folder = tyro.conf.Positional[Path]

DESCRIPTION = """Work with the studies of a results folder. To run a study, call its script:
python studies/NAME.py --help.

Exit codes: 0 done; 1 not done, or not equal; 2 refused."""


def list_studies(results: tyro.conf.Positional[Path] = Path("results")) -> int:
    """List the studies of a results folder with their state and best score.

    Args:
        results: Folder with the records of studies.
    """
    from rich.console import Console

    from clsearch.common.formatting import print_full_width
    from clsearch.common.redaction import printable
    from clsearch.records.listing import list_studies, list_table

    entries = list_studies(results.expanduser(), lambda line: print(f"damaged: {line}", file=sys.stderr))
    if not entries:
        print(f"no study in {printable(str(results))}")
        return 0
    print_full_width(Console(), list_table(entries))
    return 0


def show(folder: Folder) -> int:
    """Show the results of a study so far: answer, best trials, final evaluation.

    Args:
        folder: Folder of a study, results/<study>.
    """
    from rich.console import Console

    from clsearch.cli.show import print_study

    print_study(Console(), folder)
    return 0


def best(folder: Folder, whole: bool = False, yaml: bool = False, top: int | None = None) -> int:
    """Print the chosen hyperparameters as YAML for --config (protocol continual: those of each task).

    Args:
        folder: Folder of a study, results/<study>.
        whole: Print every setting of the chosen configuration, not only the searched ones.
        yaml: Print a list of configurations for --enqueue instead.
        top: Length of that list, best first. Default: 1.
    """
    from clsearch.cli.show import format_best, format_several

    several = yaml or top is not None
    print(format_several(folder, 1 if top is None else top, whole) if several else format_best(folder, whole), end="")
    return 0


def rerun(
    folder: Folder, trial: str, data_root: Path | None = None, device: Literal["cpu", "cuda"] = "cpu", cpus: int = 1
) -> int:
    """Train a trial again on this machine and compare its accuracy matrix. Exit code 1 if it differs.

    Args:
        folder: Folder of a study, results/<study>.
        trial: Number of a trial, or a reference: finetuning, joint, independent.
        data_root: Folder of the data sets; by default the one that the study used.
        device: Device to train on.
        cpus: Threads to train with; use the study's --cpus-per-trial for equal results.
    """
    from clsearch.execution.rerun import describe_rerun
    from clsearch.execution.rerun import rerun as train_again

    found = train_again(folder, trial, data_root, device, cpus, lambda message: print(message, file=sys.stderr))
    print("\n".join(describe_rerun(found)))
    return 0 if found.equal else 1


def sync(folders: Folders, tracking_uri: str | None = None) -> int:
    """Send the records of studies to MLflow. Records that it already has are not sent twice.

    Args:
        folders: Folders of studies, results/<study>.
        tracking_uri: MLflow tracking server or store. Default: MLFLOW_TRACKING_URI, else SQLite in the results folder.
    """
    from clsearch.common.errors import ConfigError, print_problems
    from clsearch.common.redaction import printable, redact
    from clsearch.tracking.sync import sync as sync_one

    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    refused = 0
    for folder in require_folders(folders):
        try:
            print(sync_one(folder, uri))
        except ConfigError as error:  # the others do not wait for this one
            print_problems(error)
            refused = 2
        except Exception as error:  # tracking stores raise many types
            message = printable(redact(str(error), uri).strip()).partition("\n")[0][:300]
            said = f"MLflow did not take the records of {folder} ({type(error).__name__}: {message})"
            print(f"error: {printable(said)}", file=sys.stderr)
            return 1
    return refused


def report(folders: Folders, output: Path = Path("comparison.html")) -> int:
    """Write the reports of studies again; for several studies also a page that compares them.

    Args:
        folders: Folders of studies, results/<study>.
        output: File of the page that compares several studies.
    """
    from clsearch.common.errors import ConfigError, print_problems
    from clsearch.common.formatting import relative_path
    from clsearch.common.redaction import printable
    from clsearch.reporting.html.report import write_comparison, write_report

    paths, whole, refused = [], [], 0
    try:
        for folder in require_folders(folders):
            try:
                paths.append(write_report(folder))
                whole.append(folder)
            except ConfigError as error:  # the others do not wait for this one
                print_problems(error)
                refused = 2
        if len(whole) > 1:
            paths.append(write_comparison(whole, output.expanduser()))
    except OSError as error:
        print(f"error: output: must be a file that can be written; got {printable(str(error))}", file=sys.stderr)
        return 1
    for path in paths:
        print(printable(relative_path(path)))
    return refused


def doctor(results: Path = Path("results"), data_root: Path | None = None, tracking_uri: str | None = None) -> int:
    """Check what studies need: packages, devices, Ray, MLflow, data, disk. Exit code 1 if there is a problem.

    Args:
        results: Folder for the records of studies.
        data_root: Folder of torchvision's data sets.
        tracking_uri: MLflow tracking server or store. Default: MLFLOW_TRACKING_URI, else SQLite in the results folder.
    """
    from rich.console import Console

    from clsearch.cli.doctor import run_checks
    from clsearch.common.formatting import count_of, make_table

    console, problems = Console(), 0
    table = make_table()
    for name in ("check", "found", "remedy"):
        table.add_column(name, overflow="fold")
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    with console.status("checking"):
        for finding in run_checks(results.expanduser(), None if data_root is None else data_root.expanduser(), uri):
            table.add_row(finding.what, finding.found, finding.remedy, style="bold red" if finding.remedy else None)
            problems += bool(finding.remedy)
    console.print(table)
    console.print(f"{count_of(problems, 'problem')} found." if problems else "All checks passed.")
    return 1 if problems else 0


def require_folders(folders: list[Path]) -> list[Path]:
    """Return the folders. Raises ConfigError if there are none."""
    from clsearch.common.errors import ConfigError, Refusal

    if not folders:
        text = "folders: must name at least one study, results/<study>; got none"
        raise ConfigError([Refusal("folders-named", text)])
    return folders


def delay(command: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """Return a function with the parameters of a command that returns the call instead of making it."""

    @wraps(command)
    def delayed(*values: Any, **named: Any) -> Callable[[], int]:
        return partial(command, *values, **named)

    return delayed


def parse(words: Sequence[str]) -> Callable[[], int]:
    """Return the call that a command line asks for. Help and errors end the process."""
    calls = {name: delay(command) for name, command in COMMANDS.items()}
    call: Callable[[], int] = tyro.extras.subcommand_cli_from_dict(
        calls, prog="clsearch", description=DESCRIPTION, args=words
    )
    return call


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
    """Run a command and return its exit code: 0 done; 1 not done, or not equal; 2 refused."""
    from clsearch.common.errors import CLOSED_STDOUT_EXIT_CODE, ConfigError, print_problems, silence_closed_stdout
    from clsearch.common.telemetry import disable_telemetry
    from clsearch.common.words import check_words, parse_quietly, redact_words

    disable_telemetry()
    words = sys.argv[1:] if args is None else args
    try:
        check_words(words)
        return parse_quietly(parse, parse, words, redact_words(words, ("tracking_uri",)))()
    except ConfigError as error:
        print_problems(error)
        return 2
    except BrokenPipeError:
        if silence_closed_stdout():
            return CLOSED_STDOUT_EXIT_CODE
        raise
