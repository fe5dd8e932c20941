"""Does the Ray that this process uses still live? A study ends at once with the reason if it does not.

Ray itself retries for a minute if its control service (GCS) is gone, and then aborts this process; if the node's
raylet is gone, it reports the trials there as failed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import ray

ROLES = {"raylet": "raylet", "gcs_server": "control service (GCS)"}
"""Programs without which no trial can run, and how to call them."""

PROBE_SECONDS = 2.0
"""Interval of the probes of a Ray that this process did not start."""

RECONNECT_SECONDS = 45.0
"""Time in which the control service of a joined cluster can come back (KubeRay restarts it). After 60 s Ray aborts
this process.
"""

_Look = Callable[[], str]
_look: list[_Look] = []


def what_died() -> str:
    """Say which of Ray's processes died, and how; "" if all live."""
    return _look[-1]() if _look else ""


def watch_own(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Watch the processes of a Ray that was started here. processes: the name of its program -> process."""
    _look[:] = [lambda: next((text for name in ROLES if (text := _describe_end(name, processes.get(name)))), "")]


def watch_joined() -> None:
    """Watch the Ray that this process is connected to."""
    here = ray.get_runtime_context().get_node_id()
    sockets = [node.get("RayletSocketName", "") for node in ray.nodes() if node["NodeID"] == here]
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    _look[:] = [_Probe(next(iter(sockets), ""), (host.strip("[]"), int(port))).look]


def watch_nothing() -> None:
    """Stop watching."""
    _look.clear()


def _describe_end(name: str, process: subprocess.Popen[bytes] | None) -> str:
    code = None if process is None else process.poll()
    if code is None:
        return ""
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
    return f"its {ROLES[name]} {how}"


class _Probe:
    """Probes a Ray by connecting to it, at intervals.

    Args:
        raylet: Socket of the raylet of this node; "" if there is none here.
        service: Host and port of the control service.
    """

    def __init__(self, raylet: str, service: tuple[str, int]) -> None:
        self.raylet, self.service = raylet, service
        self.probed = self.answered = time.monotonic()
        self.found = ""

    def look(self) -> str:
        now = time.monotonic()
        if not self.found and now - self.probed >= PROBE_SECONDS:
            self.probed = now
            self.found = self._probe()
        return self.found

    def _probe(self) -> str:
        if self.raylet and Path(self.raylet).is_absolute() and not _socket_listens(self.raylet):
            return f"the {ROLES['raylet']} of this node does not answer"
        if _port_listens(self.service):
            self.answered = time.monotonic()
        missing = time.monotonic() - self.answered
        return "" if missing < RECONNECT_SECONDS else f"its {ROLES['gcs_server']} has not answered for {missing:.0f} s"


def _socket_listens(path: str) -> bool:
    """Return True if a process listens at a local socket; also if it is too busy to answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass
    return True


def _port_listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def name_of(process: subprocess.Popen[bytes]) -> str:
    """Return the name of the program that a process runs."""
    words = process.args if isinstance(process.args, list | tuple) else [process.args]
    return os.path.basename(os.fsdecode(words[0]))  # type: ignore[arg-type]
