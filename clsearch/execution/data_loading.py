"""Download and decode a study's data once, in the driver, with a progress bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clsearch.common.errors import ConfigError, Refusal
from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Data, read_data
from clsearch.planning.plan import Plan


def load(plan: Plan) -> Data:
    """Load the training data of a plan's benchmark, and download it first if the plan says so.

    The data of the benchmark that two_phase reports on are checked too, so that a defect is found before the search.

    Raises:
        ConfigError: Files cannot be downloaded, or are damaged.
    """
    load_report(plan)
    return load_training(plan.config, plan.options.download, plan.options.quiet)


def load_report(plan: Plan) -> None:
    """Check and download the training data that two_phase reports on. Raises ConfigError, as `load`."""
    if plan.report is not None and plan.options.final and plan.report.source != plan.config.source:
        load_training(plan.report, plan.options.download, plan.options.quiet)


def load_training(config: TrialConfig, download: bool, quiet: bool = False) -> Data:
    """Load the training data of a configuration's benchmark. quiet: show no progress. Raises ConfigError, as `load`."""
    console = Console(stderr=True, quiet=quiet)
    source, root = config.source, config.data_root
    missing = source.missing_files(root)
    columns = (TextColumn("decoding images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        row = None

        def shown(done: int, total: int) -> None:
            nonlocal row
            if row is None:
                row = bar.add_task("", total=total)
                if not console.is_terminal:
                    console.print(f"decoding {total:,} images")
            bar.update(row, completed=done)

        try:
            return read_data(source, root, download and bool(missing), shown)
        except ConfigError:
            raise
        except Exception as error:  # readers raise many types
            raise ConfigError([unreadable(config, bool(missing), error)]) from None


def unreadable(config: TrialConfig, missing: bool, error: Exception) -> Refusal:
    """Make the refusal of data that cannot be read. missing: the data were to be downloaded."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if missing:
        text = f"download: the files of {config.source.name} must be reachable; got: {reason}"
        return Refusal("download-reachable", text)
    if config.source.files:
        text = f"data_root: the files of {config.benchmark} must be whole; got: {reason}, in {config.data_root}"
        return Refusal("data-files-whole", text)
    return Refusal("data-readable", f"benchmark: the data of {config.benchmark} must be readable; got: {reason}")
