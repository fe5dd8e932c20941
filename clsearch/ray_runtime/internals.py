"""What only Ray's private parts can change. Another version may lack them; then all stays as Ray has it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from clsearch.common.interrupts import signal_handlers_kept
from clsearch.ray_runtime import liveness


def mute(verbose: bool) -> None:
    """Have Ray print no messages of its processes, such as the last lines of their logs when one dies."""
    worker: Any = import_module("ray._private.worker")
    if not verbose and hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *args, **kwargs: None


def reread_settings() -> None:
    """Have Ray's library in this process read its environment variables again."""
    with contextlib.suppress(ImportError, AttributeError):
        import_module("ray._raylet").Config.initialize("")


@contextmanager
def signals_untouched() -> Iterator[None]:
    """Keep the present handlers of signals: Ray sets one that exits with code 15 at SIGTERM."""
    utils: Any = import_module("ray._private.utils")
    before = getattr(utils, "set_sigterm_handler", None)
    if before is not None:
        utils.set_sigterm_handler = lambda handler: None
    try:
        with signal_handlers_kept():
            yield
    finally:
        if before is not None:
            utils.set_sigterm_handler = before


@contextmanager
def processes_apart(started: dict[str, subprocess.Popen[bytes]]) -> Iterator[None]:
    """Start Ray's processes in sessions of their own, and note them: name of the program -> process.

    A signal to this process's group (`timeout`, a terminal that closes) would end them first, and with them every trial
    before it can be recorded. They end with this process nevertheless: Linux kills them (PR_SET_PDEATHSIG).
    """
    services: Any = import_module("ray._private.services")
    popen = getattr(services, "ConsolePopen", None)
    if popen is None:
        yield
        return

    class Apart(popen):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"start_new_session": True} | kwargs)
            name = liveness.name_of(self)
            started[name if name in liveness.ROLES else f"{name} {self.pid}"] = self

    services.ConsolePopen = Apart
    try:
        yield
    finally:
        services.ConsolePopen = popen


@contextmanager
def loopback_only() -> Iterator[None]:
    """Have Ray use the loopback address, as it does on systems without clusters: then its ports are open to this
    machine only.
    """
    constants: Any = import_module("ray._private.ray_constants")
    before = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    if before is not None:
        constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        if before is not None:
            constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def private_token() -> Iterator[None]:
    """Let only this user read the token that Ray makes for its first start, `~/.ray/auth_token`, or made earlier."""
    token = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):
        token.chmod(0o600)
    try:
        setup: Any = import_module("ray._private.authentication.authentication_token_setup")
        generate = setup.generate_and_save_token
    except (ImportError, AttributeError):
        yield
        return

    def generate_privately() -> None:
        before = os.umask(0o077)
        try:
            generate()
        finally:
            os.umask(before)

    setup.generate_and_save_token = generate_privately
    try:
        yield
    finally:
        setup.generate_and_save_token = generate
