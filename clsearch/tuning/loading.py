"""Reading a study's data, once, in the driver: downloaded, decoded, and said how far it is."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clsearch.core.datasets import Data, read_data
from clsearch.core.errors import ConfigError
from clsearch.tuning.plan import Plan


def load(plan: Plan) -> Data:
    """The training data of a plan's benchmark, after downloading it where that is asked for.

    Raises ConfigError where files cannot be fetched, or are not what they should be.
    """
    config, console = plan.config, Console(stderr=True)
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
            return read_data(source, root, plan.options.download and bool(missing), shown)
        except ConfigError:
            raise
        except Exception as error:  # readers raise many types
            reason = " ".join(str(error).split()) or type(error).__name__
            if missing:
                problem = f"download: the files of {source.name} must be reachable; got: {reason}"
            elif source.files:
                problem = f"data_root: the files of {config.benchmark} must be whole; got: {reason}, in {root}"
            else:
                problem = f"benchmark: the data of {config.benchmark} must be readable; got: {reason}"
            raise ConfigError([problem]) from None
