"""One line that moves while a study runs; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from clsearch.tuning.display import span
from clsearch.tuning.objectives import sign
from clsearch.tuning.records import TrialRecord

PLAIN_SECONDS = 5.0
"""Plain lines come no closer together than this."""


class ProgressLine:
    """Counts a study's trials and says how it stands."""

    def __init__(self, console: Console, trials: int, objective: str = "average_accuracy") -> None:
        self.console = console
        self.objective = objective
        self.total = trials
        self.records: dict[str, TrialRecord] = {}
        self.best: float | None = None
        self.earlier = 0
        self.started = time.monotonic()
        self.last_plain = -PLAIN_SECONDS
        self.bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.row = self.bar.add_task("starting Ray", total=trials)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the line; it is taken away at the end."""
        with self.bar:
            yield

    def say(self, what: str, moving: bool = False) -> None:
        """What a long step without trials is doing. moving: only on the line that moves."""
        self.bar.update(self.row, description=what)
        if not (moving or self.console.is_terminal):
            self.console.print(what)

    def recall(self, records: Iterable[TrialRecord]) -> None:
        """Trials that ended before this process began."""
        for record in records:
            self.keep(record)
        self.earlier = self.done()

    def keep(self, record: TrialRecord) -> None:
        """Count a trial as it stands."""
        self.records[record.label] = record
        if record.number is not None and record.state == "finished":
            value = record.metrics[self.objective]
            better = max if sign(self.objective) > 0 else min
            self.best = value if self.best is None else better(self.best, value)

    def update(self, record: TrialRecord) -> None:
        """A trial as it stands."""
        self.keep(record)
        done = self.done()
        self.bar.update(self.row, completed=done, description=self.line())
        now = time.monotonic()
        due = now - self.last_plain >= PLAIN_SECONDS or done == self.total
        if not self.console.is_terminal and record.state != "running" and due:
            self.last_plain = now
            self.console.print(self.line())

    def done(self) -> int:
        """Trials that ended, whichever way."""
        return sum(r.ended for r in self.records.values() if r.number is not None)

    def count(self, state: str) -> int:
        """Trials in a state, references apart."""
        return sum(r.state == state for r in self.records.values() if r.number is not None)

    def line(self) -> str:
        """How the study stands."""
        done = self.done()
        words = [f"{done}/{self.total} trials", f"{self.count('running')} running", f"{self.count('failed')} failed"]
        if pruned := self.count("pruned"):
            words.append(f"{pruned} stopped early")
        if self.best is not None:
            name = "" if self.objective == "average_accuracy" else f"{self.objective.replace('_', ' ')} "
            words.append(f"best {name}{100 * self.best:.2f} %")
        if self.earlier < done < self.total:
            left = (time.monotonic() - self.started) / (done - self.earlier) * (self.total - done)
            words.append(f"about {span(left)} left")
        return " · ".join(words)
