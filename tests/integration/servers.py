"""Real MLflow servers on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

Served = tuple[str, "subprocess.Popen[bytes]"]
"""A server's URI and process."""


def served(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A real MLflow server on loopback that answers."""
    words = ["-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    words += ["--artifacts-destination", str(folder / "served"), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, *words], cwd=folder, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return process
        except OSError:
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and the workers of its own session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
