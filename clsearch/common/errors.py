"""What is refused, and how that is told."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from types import TracebackType

CLOSED_STDOUT_EXIT_CODE = 141
"""Exit code of a process whose output nobody reads any more, as a shell has it."""


class ConfigError(ValueError):
    """Refused input. Each of `problems` names the field, then the rule, then the value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """Workers send errors to the driver pickled; the default would pickle the joined text."""
        return type(self), (self.problems,)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What is added to a refusal of a word that is nearly one of the known ones."""
    near = get_close_matches(word, list(known), 1, cutoff=0.7)
    return f" (did you mean {near[0]}?)" if near else ""


def print_problems(error: ConfigError) -> None:
    """Print each problem."""
    for problem in error.problems:
        print(f"error: {problem}", file=sys.stderr)


def install_excepthook() -> None:
    """From now on, a process that ends by a refusal that nobody caught, as a script's whose study is refused as it is
    made, prints the problems instead of a traceback, and its exit code is 2. An interpreter that is typed into goes on.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, ConfigError):
            before(kind, error, trace)
            return
        print_problems(error)
        if not hasattr(sys, "ps1"):
            raise SystemExit(2)

    sys.excepthook = hook


def silence_closed_stdout() -> bool:
    """Whether standard output is a pipe whose reader has gone, as `head` does; what is left to say goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone
