"""Real MLflow servers on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

Served = tuple[str, "subprocess.Popen[bytes]"]
"""A server's URI and process."""


def free_ports(n: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    held = [socket.socket() for _ in range(n)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def served(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A real MLflow server on loopback that answers."""
    words = ["-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    words += ["--artifacts-destination", str(folder / "served"), "--host", "127.0.0.1", "--port", str(port)]
    # Without the processes that run jobs of language models, which take half a minute of a core to start.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for_answer(f"http://127.0.0.1:{port}", process)
    except AssertionError:
        stop(process)
        raise AssertionError((folder / "server.log").read_text()) from None
    return process


def wait_for_answer(uri: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Until a server answers, or its process has ended."""
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2).close()
            return
        except OSError:
            assert process is None or process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and the workers of its own session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
