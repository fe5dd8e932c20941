"""Configuration errors and how they are printed."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from types import TracebackType

CLOSED_STDOUT_EXIT_CODE = 141
"""Exit code after the reader of standard output has gone: 128 + SIGPIPE, as shells report it."""


class ConfigError(ValueError):
    """Input that clsearch refuses. Each of `problems` names the field, then the rule, then the value that it got."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """Pickle the list of problems: workers send errors to the driver; the default pickles the joined text."""
        return type(self), (self.problems,)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to the refusal of a word that resembles a known one; empty without one."""
    similar = get_close_matches(word, list(known), 1, cutoff=0.7)
    return f" (did you mean {similar[0]}?)" if similar else ""


def print_problems(error: ConfigError) -> None:
    """Print each problem of a refusal to standard error."""
    for problem in error.problems:
        print(f"error: {problem}", file=sys.stderr)


def install_excepthook() -> None:
    """Make an uncaught ConfigError print its problems instead of a traceback and end the process with exit code 2.

    Scripts construct a study at their top level, where nothing catches its refusal. Interactive interpreters continue.
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
    """Discard further output if the reader of standard output has gone, as after `| head`; returns whether it has."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone
