"""What else Ray Tune does when it executes, and is kept from here."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


@contextmanager
def executing_only() -> Iterator[None]:
    """Ray Tune executes, and all else is as it was before."""
    with interrupts_restored(), uncounted(), unsaved():
        yield


@contextmanager
def unsaved() -> Iterator[None]:
    """Ray Tune writes its own record at the start and the end only: nobody reads it."""
    name = "TUNE_GLOBAL_CHECKPOINT_S"
    before = os.environ.get(name)
    os.environ[name] = "1000000"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def uncounted() -> Iterator[None]:
    """Where Ray's telemetry is off, don't let it count callbacks: it imports MLflow to know its own, for more than a
    second that the first trial would wait.
    """
    try:
        usage: Any = import_module("ray.air._internal.usage")
        count = usage.tag_callbacks
    except (ImportError, AttributeError):  # not Ray's interface: another version may count otherwise
        yield
        return
    if os.environ.get("RAY_USAGE_STATS_ENABLED") == "0":
        usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = count


@contextmanager
def interrupts_restored() -> Iterator[None]:
    """What Ctrl-C does afterwards is what it did before: Ray Tune leaves its own handler, which swallows one."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
