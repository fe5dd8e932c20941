"""`python -m clsearch`: what is done with studies that exist."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tyro


def sync(folders: tyro.conf.Positional[list[Path]], tracking_uri: str | None = None) -> int:
    """Bring MLflow up to date with the records of studies.

    Sending twice changes nothing.

    Args:
        folders: Folders of studies, results/<study>.
        tracking_uri: MLflow tracking server or store. Unless given: MLFLOW_TRACKING_URI, or SQLite in results.
    """
    from clsearch.core.config import ConfigError
    from clsearch.tuning.display import without_password
    from clsearch.tuning.sync import sync as sync_one

    if not folders:
        print("error: folders: must name at least one study, results/<study>; got none", file=sys.stderr)
        return 2
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    for folder in folders:
        try:
            print(sync_one(folder, uri))
        except ConfigError as error:
            for problem in error.problems:
                print(f"error: {problem}", file=sys.stderr)
            return 2
        except Exception as error:  # stores raise many types
            said = str(error).replace(uri or "", without_password(uri or "")).strip().partition("\n")[0][:300]
            print(
                f"error: MLflow did not take the records of {folder} ({type(error).__name__}: {said})", file=sys.stderr
            )
            return 1
    return 0


def report(folders: tyro.conf.Positional[list[Path]], output: Path = Path("comparison.html")) -> int:
    """Write the reports of studies again, and of several a page that compares them.

    Args:
        folders: Folders of studies, results/<study>.
        output: The page that compares them, where there are several.
    """
    from clsearch.core.config import ConfigError
    from clsearch.tuning.display import near
    from clsearch.tuning.report import write_comparison, write_report

    if not folders:
        print("error: folders: must name at least one study, results/<study>; got none", file=sys.stderr)
        return 2
    try:
        paths = [write_report(folder) for folder in folders]
        if len(folders) > 1:
            paths.append(write_comparison(folders, output.expanduser()))
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: output: must be a file that can be written; got {error}", file=sys.stderr)
        return 1
    for path in paths:
        print(near(path))
    return 0


def doctor(results: Path = Path("results"), data_root: Path | None = None, tracking_uri: str | None = None) -> int:
    """Look at what studies need here: versions, devices, Ray, MLflow, data, disk. Exit code 1 where there is a problem.

    Args:
        results: Folder that would keep the records of studies.
        data_root: Folder of torchvision's files.
        tracking_uri: MLflow tracking server or store. Unless given: MLFLOW_TRACKING_URI, or SQLite in results.
    """
    from rich.console import Console

    from clsearch.tuning.display import plain_table
    from clsearch.tuning.doctor import examine

    console, problems = Console(), 0
    table = plain_table()
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


def main(args: list[str] | None = None) -> int:
    """The command line."""
    return int(
        tyro.extras.subcommand_cli_from_dict(
            {"doctor": doctor, "report": report, "sync": sync}, prog="python -m clsearch", args=args
        )
    )


if __name__ == "__main__":
    sys.exit(main())
