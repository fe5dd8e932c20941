"""Give up on a server that does not answer, whatever a library waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PROBE_SECONDS = 10.0
"""A server that has not answered a whole probe by then counts as unreachable."""


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
