"""What waits for Ray ends when Ray's processes do; here, processes that only sleep."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from clsearch.common.errors import RayDiedError
from clsearch.ray_runtime import liveness
from clsearch.ray_runtime.liveness import what_died
from clsearch.ray_runtime.supervision import SearchGuard, SearchStopped, StopRequested, supervised

pytestmark = pytest.mark.slow


@pytest.fixture
def raylet() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is watched as Ray's."""
    with subprocess.Popen(["sleep", "100"]) as process:
        liveness.watch_own({"raylet": process})
        yield process
        liveness.watch_nothing()
        process.kill()


def soon(action, seconds: float = 0.3) -> None:
    threading.Timer(seconds, action).start()


def test_a_call_gives_what_it_returns_and_raises_what_it_raises():
    assert supervised(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        supervised(lambda: 1 / 0)


def test_a_call_that_blocks_ends_with_ray_and_the_message_names_what_died(raylet):
    began = time.monotonic()
    soon(raylet.kill)
    with pytest.raises(RayDiedError, match=r"^Ray died: its raylet was killed \(SIGKILL\)$"):
        supervised(lambda: time.sleep(100))
    assert time.monotonic() - began < 10


def test_a_call_that_blocks_ends_at_an_interrupt():
    began = time.monotonic()
    soon(lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        supervised(lambda: time.sleep(100))
    assert time.monotonic() - began < 10


def test_a_search_ends_after_its_step_at_an_interrupt_and_at_once_at_the_second():
    guard, steps = SearchGuard(), []

    def search() -> None:
        while True:
            time.sleep(0.01)
            steps.append(guard.is_ending())
            guard.check()

    soon(lambda: os.kill(os.getpid(), signal.SIGINT))
    guard.run(search)
    assert steps.count(True) == 1
    began = time.monotonic()
    for seconds in (0.2, 0.5):
        soon(lambda: os.kill(os.getpid(), signal.SIGINT), seconds)
    with pytest.raises(KeyboardInterrupt):
        SearchGuard().run(lambda: time.sleep(100))
    assert time.monotonic() - began < 5


def test_a_search_whose_ray_died_ends_and_may_write_no_more(raylet):
    guard, caught = SearchGuard(), []

    def search() -> None:
        while True:
            time.sleep(0.01)
            try:
                guard.check()
            except (SearchStopped, StopRequested) as error:
                caught.append(type(error))
                raise

    soon(raylet.kill)
    with pytest.raises(RayDiedError):
        guard.run(search)
    assert caught == [SearchStopped]
    assert guard.is_ending()
    with pytest.raises(SearchStopped), guard.writing():
        raise AssertionError


def test_a_cluster_that_was_joined_has_died_if_nobody_listens_for_long(tmp_path, monkeypatch):
    path = str(tmp_path / "raylet")
    with socket.socket(socket.AF_UNIX) as local, socket.create_server(("127.0.0.1", 0)) as service:
        local.bind(path)
        local.listen()
        probe = liveness._Probe(path, service.getsockname())
        monkeypatch.setattr(liveness, "PROBE_SECONDS", 0.01)
        time.sleep(0.02)
        assert probe.look() == ""
        service.close()
        time.sleep(0.02)
        assert probe.look() == ""  # it may come back
        monkeypatch.setattr(liveness, "RECONNECT_SECONDS", 0.01)
        time.sleep(0.02)
        assert "control service (GCS) has not answered" in probe.look()
    assert "raylet of this node does not answer" in liveness._Probe(path, ("127.0.0.1", 1))._probe()
    assert what_died() == ""
