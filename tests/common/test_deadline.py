"""Servers that accept connections and then say nothing, or a byte now and then."""

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from clsearch.common.deadline import call_within, no_endless_sockets
from clsearch.records.mirror import check_mirror
from clsearch.tracking.store_check import check_tracking
from tests.refusals import refusals

pytestmark = pytest.mark.slow

LIMIT = 0.6


@contextmanager
def server(drip: bytes = b"", each: float = 0.2) -> Iterator[int]:
    """A port that accepts every connection, reads nothing, and sends `drip` byte by byte, again and again."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ended = threading.Event()
        held: list[socket.socket] = []

        def send(connection: socket.socket) -> None:
            while drip and not ended.wait(each):
                for byte in drip:
                    try:
                        connection.sendall(bytes([byte]))
                    except OSError:
                        return

        def accept() -> None:
            while True:
                try:
                    held.append(listening.accept()[0])
                except OSError:
                    return
                threading.Thread(target=send, args=(held[-1],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        ended.set()
        for connection in held:
            connection.close()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clsearch.tracking.store_check.PROBE_SECONDS", LIMIT)
    monkeypatch.setattr("clsearch.records.mirror.PROBE_SECONDS", LIMIT)


@pytest.mark.parametrize("drip", [b"", b"X", b"H"], ids=["silent", "dripping", "dripping like HTTP"])
@pytest.mark.parametrize("scheme", ["http", "postgresql", "mysql", "mssql"])
def test_a_tracking_store_that_hangs_is_refused_in_time(scheme, drip):
    began = time.monotonic()
    with server(drip) as port:
        (problem,) = refusals(check_tracking, f"{scheme}://bob:secret@127.0.0.1:{port}/x")
    assert time.monotonic() - began < LIMIT + 2
    assert problem.startswith("tracking_uri: must be ")
    assert f"got {scheme}://127.0.0.1:{port}/x (" in problem
    assert any(words in problem for words in (f"no answer in {LIMIT:g} s", "else", "BadStatusLine", "LineTooLong"))


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [("postgresql", b"N"), ("postgresql", b"S"), ("mysql", b"J\0\0\0\x0a"), ("mssql", b"\x04")],
)
def test_a_database_server_that_greets_passes(scheme, answer):
    with server(answer, each=0.05) as port:
        check_tracking(f"{scheme}://127.0.0.1:{port}/x")


@pytest.mark.parametrize("drip", [b"", b"2"], ids=["silent", "dripping"])
@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_a_mirror_that_hangs_is_refused_in_time(tmp_path, scheme, drip):
    began = time.monotonic()
    with server(drip) as port:
        (problem,) = refusals(check_mirror, tmp_path / "study", f"{scheme}://bob:secret@127.0.0.1:{port}/x")
    assert time.monotonic() - began < LIMIT + 3
    assert problem.startswith(f"mirror: must be writable; got {scheme}://127.0.0.1:{port}/x (")
    assert f"no answer in {LIMIT:g} s" in problem or "Bad status line" in problem


def test_a_call_in_time_returns_or_raises():
    assert call_within(5, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        call_within(5, divmod, 7, 0)
    with pytest.raises(TimeoutError, match=r"no answer in 0\.1 s"):
        call_within(0.1, time.sleep, 3)


def test_a_download_from_a_silent_server_ends():
    with server() as port, no_endless_sockets(0.2), pytest.raises((TimeoutError, urllib.error.URLError)):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/data.gz")
    assert socket.getdefaulttimeout() is None
