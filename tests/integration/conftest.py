"""What integration tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import started
from tests.integration.scripts import run_here
from tests.integration.servers import Served, free_ports, served, stop

__all__ = ["run_here"]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """A Ray of one core, shared by all tests: each worker more that a study starts takes 6 s of a core."""
    with started(cpus=1) as address:
        yield address


@contextmanager
def serving(folder: Path, store: Path) -> Iterator[Served]:
    """A real MLflow server with an empty store in a folder of its own: its URI and process."""
    (port,) = free_ports(1)
    shutil.copy(store, folder / "server.db")
    process = served(folder, port)
    yield f"http://127.0.0.1:{port}", process
    stop(process)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Served]:
    """A server that tests share, whose studies have different names."""
    with serving(tmp_path_factory.mktemp("server"), store) as found:
        yield found


@pytest.fixture
def own_server(tmp_path: Path, store: Path) -> Iterator[Served]:
    """A server that a test may stop, or whose files in tmp_path it reads."""
    with serving(tmp_path, store) as found:
        yield found
