"""Start and stop the Ray of a study on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.interrupts import LEAVE_AT_ONCE
from clsearch.ray_runtime import liveness
from clsearch.ray_runtime.internals import (
    loopback_only,
    mute,
    private_token,
    processes_apart,
    reread_settings,
    signals_untouched,
)
from clsearch.ray_runtime.liveness import what_died

SESSION = "session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path that Ray makes a socket of, below its temporary folder."""

SOCKET_BYTES = 107
"""Most bytes of a socket's path on Linux."""

SHORT_FOLDERS = ("/tmp/ray", "/var/tmp/ray", "/dev/shm/ray")
"""Temporary folders for Ray if the path of the usual one is too long for sockets."""

PROBE_BYTES = 2**20
"""What the temporary folder must have room for: Ray writes its logs there."""

OPEN_FILES = 1024
"""Ray's processes need a few hundred open files each. A lower soft limit is raised."""

SLOW_SECONDS = 20.0
"""A start that fails after this time is tried once more with longer waits."""

LONG_WAITS = {
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_worker_register_timeout_seconds": "180",
}
"""Ray's own settings for a machine on which its processes start slowly."""

REAPER = 'trap "" TERM HUP INT; read -r groups && while read -r line; do :; done; kill -s KILL -- $groups'
"""Shell program that kills process groups when its input ends: that is, when this process ends, however."""

STOP_SECONDS = 10.0
"""Ray is stopped within this time, or left."""


def start_ray(verbose: bool = False, say: Callable[[str], None] = lambda line: None) -> None:
    """Start a Ray on this machine that ends with this process and that only this machine reaches.

    Args:
        verbose: Show Ray's own messages.
        say: Called with a line if the start is tried again.

    Raises:
        ConfigError: It does not start; the message says why and what helps.
    """
    folder = choose_temporary_folder()
    raise_file_limit()
    began = time.monotonic()
    try:
        _start(verbose, folder)
    except Exception as error:
        slow = time.monotonic() - began >= SLOW_SECONDS or "timed out" in str(error).lower()
        if not slow or has_few_files():
            raise _make_error(explain(error)) from None
        say("Ray did not start in time; trying once more with longer waits")
        with longer_waits():
            try:
                _start(verbose, folder)
            except Exception as again:
                raise _make_error(explain(again, slow=True)) from None


def stop_ray(hurry: bool = False) -> None:
    """Leave Ray, and end the processes of one that was started here, within seconds, whatever its state.

    Args:
        hurry: Kill them at once.

    Raises:
        KeyboardInterrupt: Somebody does not want to wait; the processes are killed then.
    """
    if died := what_died():
        LEAVE_AT_ONCE.set()
    hurry = hurry or bool(died)
    stopping = threading.Thread(target=ray.shutdown, daemon=True)
    try:
        if hurry and (raylet := _started.get("raylet")) is not None:
            raylet.kill()  # without it, Ray's own shutdown does not wait for workers
        stopping.start()
        stopping.join(STOP_SECONDS / 5 if hurry else STOP_SECONDS)
    finally:
        if stopping.is_alive():
            LEAVE_AT_ONCE.set()
        _kill_started(their_children=hurry or stopping.is_alive())
        liveness.watch_nothing()


_started: dict[str, subprocess.Popen[bytes]] = {}
"""Processes of the present Ray, if it was started here: name of the program -> process."""


def _start(verbose: bool, folder: Path | None) -> None:
    """Start Ray; leave no process if that fails."""
    _started.clear()
    level = logging.INFO if verbose else logging.ERROR
    own: dict[str, Any] = {} if folder is None else {"_temp_dir": str(folder)}
    try:
        with signals_untouched(), processes_apart(_started), loopback_only(), private_token():
            mute(verbose)
            ray.init(address="local", include_dashboard=False, logging_level=level, log_to_driver=verbose, **own)
    except BaseException:
        with contextlib.suppress(Exception):
            ray.shutdown()
        _kill_started(their_children=True)
        raise
    liveness.watch_own(_started)
    _begin_reaper()


def _begin_reaper() -> None:
    """Have the children of Ray's processes killed if this process is killed.

    The kernel ends only the processes that this one started; the agents of a raylet would stay for a minute.
    """
    reaper = subprocess.Popen(
        ["/bin/sh", "-c", REAPER], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert reaper.stdin is not None
    reaper.stdin.write(" ".join(f"-{process.pid}" for process in _started.values()).encode() + b"\n")
    reaper.stdin.flush()
    _started["reaper"] = reaper


def _kill_started(their_children: bool) -> None:
    """Kill what still runs of Ray. their_children: also workers and agents, which linger without a control service."""
    for process in _started.values():
        if process.poll() is None:
            process.kill()
        if their_children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # each leads a session of its own
    for process in _started.values():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        if process.stdin is not None:
            process.stdin.close()
    _started.clear()


def _make_error(why: str) -> ConfigError:
    return ConfigError([Refusal("ray-starts", f"ray: must start on this machine; got: Ray could not start, {why}")])


def explain(error: Exception, slow: bool = False) -> str:
    """Explain in a sentence why Ray did not start, and what helps."""
    said = str(error).strip().partition("\n")[0][:300]
    text = f"{type(error).__name__}: {said}"
    if "Too many open files" in str(error) or has_few_files():
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return (
            f"since only {most} files may be open at a time ({text}). Raise the limit to {OPEN_FILES} or more "
            f"(ulimit -n, LimitNOFILE of systemd)"
        )
    if slow:
        return (
            f"even with longer waits ({text}). The machine is too busy, or its processes are slowed down: end other "
            f"work, or try again later"
        )
    return f"because of {text}. python -m clsearch doctor checks this machine"


def choose_temporary_folder() -> Path | None:
    """Choose Ray's temporary folder: None for its usual one, or a shorter one if that is too long for sockets.

    Raises:
        ConfigError: The folder cannot be written, or has no room.
    """
    usual = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")
    if fits_sockets(usual):
        if problem := explain_unwritable(usual):
            raise _make_error(f"because {problem}. Set TMPDIR to a folder with room")
        return None
    for folder in map(Path, SHORT_FOLDERS):
        if not explain_unwritable(folder):
            return folder
    text = f"because the path of its temporary folder is too long for sockets: {usual}. Set RAY_TMPDIR to a short one"
    raise _make_error(text)


def fits_sockets(folder: Path) -> bool:
    """Return True if the paths of Ray's sockets below a temporary folder are short enough."""
    return len(os.fsencode(folder / SESSION)) <= SOCKET_BYTES


def explain_unwritable(folder: Path) -> str:
    """Explain why Ray cannot use a temporary folder; "" if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        return f"its temporary folder {folder} cannot be written ({error.strerror})"
    return ""


def has_few_files() -> bool:
    """Return True if this user may not open as many files as Ray needs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft != resource.RLIM_INFINITY and soft < OPEN_FILES


def raise_file_limit() -> None:
    """Raise the soft limit of open files, as far as this user may; processes that start later inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if has_few_files():
        most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


@contextmanager
def longer_waits() -> Iterator[None]:
    """Have Ray wait longer for its own processes."""
    before = {name: os.environ.get(name) for name in LONG_WAITS}
    os.environ.update(LONG_WAITS)
    reread_settings()
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                del os.environ[name]
            else:
                os.environ[name] = old
