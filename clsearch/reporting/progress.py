"""What moves while a study runs: the last trials, and a line that says how it stands; plain lines where there is no
terminal.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from clsearch.common.formatting import format_duration, to_display_units, unit_suffix
from clsearch.common.formatting import humanize as worded
from clsearch.planning.objectives import sign
from clsearch.records.trials import ENDED, TrialRecord
from clsearch.reporting.trial_names import run_name

PLAIN_SECONDS = 5.0
"""Plain lines come no closer together than this."""

RECENT = 4
"""Trials above the line."""


class ProgressLine:
    """Counts a study's trials and says how it stands. quiet: warnings alone are printed."""

    def __init__(self, console: Console, trials: int, objective: str = "average_accuracy", quiet: bool = False) -> None:
        self.console = console
        self.objective = objective
        self.total = trials
        self.quiet = quiet
        self.records: dict[str, TrialRecord] = {}
        self.states = Counter[str]()
        self.recent: deque[TrialRecord] = deque(maxlen=RECENT)
        self.best: float | None = None
        self.earlier = 0
        self.started = time.monotonic()
        self.last_plain = -PLAIN_SECONDS
        self.untold = False
        self.terminal = console.is_terminal  # asking takes a millisecond
        self.moves = self.terminal and not quiet
        self.bar = Progress(SpinnerColumn(), BarColumn(bar_width=12), TextColumn("{task.description}"), console=console)
        self.row = self.bar.add_task("starting Ray", total=trials)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the line; it is taken away at the end."""
        if not self.moves:
            yield
            return
        with Live(self, console=self.console, transient=True, refresh_per_second=8):
            yield

    def __rich__(self) -> Group:
        lines = (
            Text(self.ended(record), style="dim", no_wrap=True, overflow="ellipsis") for record in tuple(self.recent)
        )
        return Group(*lines, self.bar)

    def say(self, what: str, moving: bool = False) -> None:
        """What a long step without trials is doing. moving: only on the line that moves."""
        self.bar.update(self.row, description=what)
        if not (moving or self.terminal):
            self.tell(what)

    def tell(self, what: str) -> None:
        """Print what stays."""
        if not self.quiet:
            self.console.print(what, soft_wrap=True, highlight=False, markup=False)

    def recall(self, records: Iterable[TrialRecord]) -> None:
        """Trials that ended before this process began."""
        for record in records:
            self.keep(record)
        self.earlier = self.done()
        self.started = time.monotonic()

    def keep(self, record: TrialRecord) -> None:
        """Count a trial as it stands."""
        before = self.records.get(record.label)
        self.records[record.label] = record
        if record.number is None:
            return
        self.states[record.state] += 1
        if before is not None:
            self.states[before.state] -= 1
        if record.ended and not (before is not None and before.ended):
            self.recent.append(record)
            self.untold = True
        if record.state == "finished":
            value = record.metrics[self.objective]
            better = max if sign(self.objective) > 0 else min
            self.best = value if self.best is None else better(self.best, value)

    def update(self, record: TrialRecord) -> None:
        """A trial as it stands."""
        self.keep(record)
        done = self.done()
        self.bar.update(self.row, completed=done, description=self.line())
        now = time.monotonic()
        # After an end, once another trial has moved: until then its worker counts as idle.
        due = record.state == "running" and now - self.last_plain >= PLAIN_SECONDS
        if not self.terminal and self.untold and (due or done == self.total):
            self.last_plain, self.untold = now, False
            self.tell(self.line())

    def done(self) -> int:
        """Trials that ended, whichever way."""
        return sum(self.states[state] for state in ENDED)

    def count(self, state: str) -> int:
        """Trials in a state, references apart."""
        return self.states[state]

    def line(self) -> str:
        """How the study stands."""
        done = self.done()
        words = [f"{done}/{self.total} trials", f"{self.count('running')} running"]
        lost = {"failed": self.count("failed"), "stopped early": self.count("pruned")}
        words += [f"{count} {name}" for name, count in lost.items() if count]
        if self.best is not None:
            name = "" if self.objective == "average_accuracy" else f"{worded(self.objective)} "
            words.append(f"best {name}{to_display_units(self.objective, self.best):.2f}{unit_suffix(self.objective)}")
        if self.earlier < done < self.total:
            each = (time.monotonic() - self.started) / (done - self.earlier)
            words += [pace(each), f"about {format_duration(each * (self.total - done))} left"]
        if done == self.total:  # what is waited for then
            references = [r for r in self.records.values() if r.number is None and not r.ended]
            words += [f"reference {r.algorithm} has learned {r.tasks_learned} tasks" for r in references]
        return " · ".join(words)

    def ended(self, record: TrialRecord) -> str:
        """How a trial ended."""
        if record.state == "failed":
            return f"{run_name(record)}  failed: {record.reason}"
        if record.state == "pruned":
            return f"{run_name(record)}  stopped early, after task {record.tasks_learned}"
        spread = record.metrics.get(f"{self.objective}/std")
        more = "" if spread is None else f" ± {to_display_units(self.objective, spread):.2f}"
        score = (
            f"{to_display_units(self.objective, record.metrics[self.objective]):.2f}{more}{unit_suffix(self.objective)}"
        )
        return f"{run_name(record)}  {score}  {record.seconds:.1f} s"


def pace(seconds: float) -> str:
    """How many trials in a time, by the seconds of one."""
    return f"{60 / seconds:,.0f}/min" if seconds < 20 else f"{3600 / seconds:,.0f}/h"
