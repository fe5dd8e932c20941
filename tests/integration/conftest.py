"""What integration tests share."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import started
from tests.integration.scripts import run_here
from tests.integration.servers import Served, served, stop

__all__ = ["run_here"]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """A Ray of one core, shared by all tests: each worker more that a study starts takes 6 s of a core."""
    with started(cpus=1) as address:
        yield address


@pytest.fixture
def server(tmp_path: Path, store: Path) -> Iterator[Served]:
    """A real MLflow server: its URI and process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shutil.copy(store, tmp_path / "server.db")
    process = served(tmp_path, port)
    yield f"http://127.0.0.1:{port}", process
    stop(process)
