"""Wait for Ray in other threads, so that this one always hears Ctrl-C and the death of Ray.

A call of Ray can block in its library for a minute, where Python hears no signal, if Ray's processes are gone.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any, TypeVar

import ray

from clsearch.common.errors import RayDiedError
from clsearch.ray_runtime.liveness import what_died

POLL_SECONDS = 0.1

SETTLING_SECONDS = 0.5
"""An error of Ray may arrive before the death that caused it is seen, and a death before the signal that caused it."""

GRACE_SECONDS = 8.0
"""At Ctrl-C Ray Tune has this time to stop its trials."""

T = TypeVar("T")

_left_behind: list[futures.Future[Any]] = []
"""Calls that nobody waits for any more, with all that they hold: Ray's handles of actors ask its control service when
they are freed, for a minute, and let no other thread run meanwhile.
"""


def supervised(work: Callable[[], T]) -> T:
    """Call a function that waits for Ray, and return its result.

    Raises:
        RayDiedError: Ray died. The call is left behind.
        KeyboardInterrupt: Ctrl-C. The call is left behind.
    """
    future = _begin(work)
    try:
        return _wait(future)
    except (RayDiedError, KeyboardInterrupt):
        _leave_behind(future)
        raise


class SearchStopped(BaseException):
    """Ends a search in its thread. Not an Exception: Ray Tune would attribute that to a trial."""


class StopRequested(Exception):
    """Ends a search at the end of a step, after which Ray Tune stops its trials."""


class SearchGuard:
    """Runs a search in a thread and ends it: at Ctrl-C after its present step, if Ray died at once.

    Once the search has ended, a thread that was left behind writes nothing more.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._closed = False
        self._lock = threading.RLock()

    def run(self, work: Callable[[], object]) -> None:
        """Run a search to its end.

        Raises:
            RayDiedError: Ray died.
            KeyboardInterrupt: Ctrl-C was pressed again while the search was ending.
        """
        future = _begin(work)
        try:
            _wait(future)
        except KeyboardInterrupt:
            self.stopping.set()
            until = time.monotonic() + GRACE_SECONDS
            while not future.done() and not what_died() and time.monotonic() < until:
                futures.wait([future], POLL_SECONDS)
        except (StopRequested, SearchStopped):
            pass
        finally:
            self._close()
            if what_died() or not future.done():
                _leave_behind(future)

    def is_ending(self) -> bool:
        """Return True if the search ends or Ray died: an error that occurs now says nothing about a trial."""
        return self.stopping.is_set() or self._closed or bool(what_died())

    def check(self) -> None:
        """End the search in its thread if it is to end."""
        if self._closed or what_died():
            raise SearchStopped
        if self.stopping.is_set():
            raise StopRequested

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the records; a search that was left behind ends here."""
        with self._lock:
            if self._closed:
                raise SearchStopped
            yield

    def _close(self) -> None:
        with self._lock:
            self._closed = True


def _begin(work: Callable[[], T]) -> futures.Future[T]:
    """Start a function in a thread that does not delay the end of the process."""
    future: futures.Future[T] = futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _leave_behind(future: futures.Future[Any]) -> None:
    """Keep all that a call holds: reachable, and out of the way of the collector."""
    _left_behind.append(future)
    if what_died():
        gc.freeze()


def _wait(future: futures.Future[T]) -> T:
    while True:
        done, _ = futures.wait([future], POLL_SECONDS)
        error = future.exception() if done else None
        if done and error is None:
            return future.result()
        if isinstance(error, ray.exceptions.RayError):
            _settle()
        if died := what_died():
            gc.freeze()
            time.sleep(SETTLING_SECONDS)  # a signal to all processes arrives here, too
            raise RayDiedError(f"Ray died: {died}") from error
        if error is not None:
            raise error


def _settle() -> None:
    until = time.monotonic() + SETTLING_SECONDS
    while not what_died() and time.monotonic() < until:
        time.sleep(POLL_SECONDS / 2)
