"""Time pieces of work that take turns, and print tables: shared by all benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import SOURCES, Data

Work = Callable[[], object]


@dataclass(frozen=True)
class Timed:
    """Seconds of each round of several pieces of work that took turns."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median seconds of one piece."""
        return median(self.seconds[name])

    def ratio(self, name: str, base: str) -> float:
        """Return the median over rounds of a piece's time over another's in the same round, so that other load affects
        both.
        """
        return median(a / b for a, b in zip(self.seconds[name], self.seconds[base], strict=True))


def side_by_side(work: Mapping[str, Work], rounds: int) -> Timed:
    """Time pieces of work in turn, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return Timed(seconds)


def noise_like(config: TrialConfig, samples: int = 0) -> Data:
    """Make random images in the form of a configuration's data set, which take the same time. samples: number of
    images; 0: as many as the digits have, or 60,000.
    """
    source = config.source
    generator = np.random.default_rng(0)
    count = samples or (SOURCES["digits"].read(None, False, None)[0].shape[0] if source.name == "digits" else 60_000)
    inputs = generator.integers(0, source.maximum + 1, (count, int(np.prod(source.shape))), dtype=np.uint8)
    return Data(source, inputs, np.arange(count) % len(source.classes))


def table(title: str, *columns: str) -> Table:
    """Make a table: names in the first column, numbers in the others."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place else "left", no_wrap=True)
    return made


def show(made: Table) -> None:
    """Print a table without cutting it off."""
    Console(width=130).print(made)


def micro(seconds: float) -> str:
    """Format seconds as microseconds."""
    return f"{1e6 * seconds:,.0f}"
