"""Signals that end a study as Ctrl-C does, and a process that cannot wait for its libraries."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; `timeout`, systemd, Slurm, Kubernetes, `ray job stop`; a terminal that closes."""

SAME_SECONDS = 1.0
"""Signals less than this apart are one request: `timeout` sends two, and a closing terminal may send two kinds."""

LEAVE_AT_ONCE = threading.Event()
"""Set when a library that has lost its other processes would delay the end of this one, or abort it."""


class _Handler:
    """Raises KeyboardInterrupt. terminals: file descriptors that a hang-up closes."""

    def __init__(self, terminals: list[int]) -> None:
        self.terminals = terminals
        self.last = -SAME_SECONDS

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._silence_terminals()
        now = time.monotonic()
        if now - self.last < SAME_SECONDS:
            return
        self.last = now
        raise KeyboardInterrupt

    def _silence_terminals(self) -> None:
        """Discard further output to a terminal that is gone: writing to it is an error."""
        null = os.open(os.devnull, os.O_WRONLY)
        for number in self.terminals:
            os.dup2(null, number)
        os.close(null)


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread for SIGTERM and SIGHUP, too, so that records are written first.

    A signal that the process ignores stays ignored (nohup), and a SIGINT handler of the caller stays.
    """
    there = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or isinstance(there, _Handler):
        yield
        return
    handler = _Handler([number for number in (1, 2) if os.isatty(number)])
    own = {signal.SIG_DFL, signal.default_int_handler}
    before = {number: signal.getsignal(number) for number in ENDING}
    replaced = {
        number: old
        for number, old in before.items()
        if old in own or (number == signal.SIGTERM and old != signal.SIG_IGN)
    }
    for number in replaced:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in replaced.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


@contextmanager
def signal_handlers_kept() -> Iterator[None]:
    """Restore the handlers afterwards: Ray replaces that of SIGTERM, and Ray Tune that of SIGINT."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, old in before.items():
            if main and old is not None:
                signal.signal(number, old)


def ignore_interrupts() -> None:
    """Ignore further signals: the process ends within seconds."""
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)


def exit_process(code: int) -> NoReturn:
    """Exit; without the libraries' own last steps if they would hang."""
    if LEAVE_AT_ONCE.is_set():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
