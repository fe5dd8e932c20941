"""Give up on a server that does not answer, whatever a library waits for."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

PROBE_SECONDS = 10.0
"""A server that has not answered a whole probe by then counts as unreachable."""


SILENT_SECONDS = 60.0
"""A server that sends nothing for so long during a download counts as dead."""


@contextmanager
def no_endless_sockets(seconds: float = SILENT_SECONDS) -> Iterator[None]:
    """Give sockets that are opened here, by a library without a deadline of its own, a time to wait for each answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def call_within(seconds: float, call: Callable[..., T], *arguments: object) -> T:
    """Return what a call returns, or raise what it raises, within a time.

    A socket's own timeout begins anew with each byte that arrives, so the call runs in a thread, which is left behind
    if it is late; it does not keep the process alive.

    Raises:
        TimeoutError: The call is late.
    """
    done = threading.Event()
    outcome: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call(*arguments))
        except BaseException as error:
            errors.append(error)
        done.set()

    threading.Thread(target=run, name="probe", daemon=True).start()
    if not done.wait(seconds):
        raise TimeoutError(f"no answer in {seconds:g} s")
    if errors:
        raise errors[0]
    return outcome[0]
