"""Progress of a running study: the last trials and a status line; without a terminal, plain lines from time to time."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from clsearch.common.formatting import count_of, format_duration, format_metric, format_number, humanize, unit_suffix
from clsearch.common.redaction import printable
from clsearch.planning.objectives import sign
from clsearch.records.study_file import ENDED
from clsearch.records.trials import TrialRecord
from clsearch.reporting.trial_names import format_run_name

PLAIN_SECONDS = 5.0
"""Minimum interval between plain lines."""

RECENT = 4
"""Trials above the status line."""


class ProgressLine:
    """Counts the trials of a study and prints its status. quiet: print warnings only."""

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
        self.unprinted = False
        self.terminal = console.is_terminal  # the property takes a millisecond
        self.moves = self.terminal and not quiet
        self.bar = Progress(SpinnerColumn(), BarColumn(bar_width=12), TextColumn("{task.description}"), console=console)
        self.row = self.bar.add_task("starting Ray", total=trials)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the status line on a terminal; remove it at the end."""
        if not self.moves:
            yield
            return
        with Live(self, console=self.console, transient=True, refresh_per_second=8):
            yield

    def __rich__(self) -> Group:
        lines = (
            Text(printable(describe_end(record, self.objective)), style="dim", no_wrap=True, overflow="ellipsis")
            for record in tuple(self.recent)
        )
        return Group(*lines, self.bar)

    def show_step(self, step: str, moving: bool = False) -> None:
        """Show the present step on the status line. moving: do not print it without a terminal."""
        self.bar.update(self.row, description=step)
        if not (moving or self.terminal):
            self.print_line(step)

    def print_line(self, line: str) -> None:
        """Print a line that stays."""
        if not self.quiet:
            self.console.print(printable(line), soft_wrap=True, highlight=False, markup=False)

    def warn(self, line: str) -> None:
        """Print a warning that stays, with --quiet too."""
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def restore(self, records: Iterable[TrialRecord]) -> None:
        """Count the trials that ended in an earlier process."""
        for record in records:
            self.count_record(record)
        self.earlier = self.done()
        self.started = time.monotonic()

    def count_record(self, record: TrialRecord) -> None:
        """Count a trial in its present state."""
        before = self.records.get(record.label)
        self.records[record.label] = record
        if record.number is None:
            return
        self.states[record.state] += 1
        if before is not None:
            self.states[before.state] -= 1
        if record.ended and not (before is not None and before.ended):
            self.recent.append(record)
            self.unprinted = True
        if record.state == "finished":
            value = record.metrics[self.objective]
            better = max if sign(self.objective) > 0 else min
            self.best = value if self.best is None else better(self.best, value)

    def update(self, record: TrialRecord) -> None:
        """Count a trial in its present state and show the status."""
        self.count_record(record)
        done = self.done()
        self.bar.update(self.row, completed=done, description=self.status())
        now = time.monotonic()
        # Wait until another trial reports: until then the worker of the trial that ended counts as idle.
        due = record.state == "running" and now - self.last_plain >= PLAIN_SECONDS
        if not self.terminal and self.unprinted and (due or done == self.total):
            self.last_plain, self.unprinted = now, False
            self.print_line(self.status())

    def done(self) -> int:
        """Number of trials that finished, failed or were stopped early."""
        return sum(self.states[state] for state in ENDED)

    def count(self, state: str) -> int:
        """Number of trials in a state, without references."""
        return self.states[state]

    def status(self) -> str:
        """The status of the study in one line."""
        done = self.done()
        parts = [f"{done}/{self.total} trials", f"{self.count('running')} running"]
        lost = {"failed": self.count("failed"), "stopped early": self.count("pruned")}
        parts += [f"{count} {name}" for name, count in lost.items() if count]
        if self.best is not None:
            name = "" if self.objective == "average_accuracy" else f"{humanize(self.objective)} "
            parts.append(f"best {name}{format_metric(self.objective, self.best)}")
        if self.earlier < done < self.total:
            each = (time.monotonic() - self.started) / (done - self.earlier)
            parts += [format_pace(each), f"about {format_duration(each * (self.total - done))} left"]
        if done == self.total:  # the study then waits for its references
            references = [r for r in self.records.values() if r.number is None and not r.ended]
            parts += [f"reference {r.algorithm} has learned {count_of(r.tasks_learned, 'task')}" for r in references]
        return " · ".join(parts)


def describe_end(record: TrialRecord, objective: str) -> str:
    """Describe the end of a trial: its score, the reason why it failed, or when it was stopped."""
    name = format_run_name(record)
    if record.state == "failed":
        return f"{name}  failed: {record.reason}"
    if record.state == "pruned":
        return f"{name}  stopped early, after task {record.tasks_learned}"
    std = record.metrics.get(f"{objective}/std")
    spread = "" if std is None else f" ± {format_number(objective, std)}"
    score = f"{format_number(objective, record.metrics[objective])}{spread}{unit_suffix(objective)}"
    return f"{name}  {score}  {record.seconds:.1f} s"


def format_pace(seconds: float) -> str:
    """Trials per minute or hour, from the seconds per trial."""
    return f"{60 / seconds:,.0f}/min" if seconds < 20 else f"{3600 / seconds:,.0f}/h"
