"""Where MLflow is to be reached, and that no password is told."""

import base64
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clsearch.tracking.store_check import check_tracking
from tests.builders import (
    closed_port,
    http_port,
    planned,
    silent_port,
    study_of,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("server", "reason"),
    [(closed_port, "refused"), (lambda: http_port(404), "status 404"), (silent_port, "no answer in")],
    ids=["closed", "not MLflow", "silent"],
)
def test_a_tracking_server_that_does_not_answer_is_refused(refused, monkeypatch, server, reason):
    monkeypatch.setattr("clsearch.tracking.store_check.PROBE_SECONDS", 0.3)
    with server() as port:
        text = refused("--tracking-uri", f"http://127.0.0.1:{port}")
    assert re.search(
        rf"^error: tracking_uri: must be an MLflow server .*; got http://127.0.0.1:{port} \(.*{reason}",
        text,
        re.MULTILINE,
    )


def test_a_password_in_a_refused_tracking_uri_is_not_printed(refused):
    with closed_port() as port:
        text = refused("--tracking-uri", f"http://bob:secret@127.0.0.1:{port}")
    assert f"127.0.0.1:{port}" in text
    assert "secret" not in text


def test_no_password_reaches_the_command():
    plan = planned(study_of(), "--tracking-uri", "http://bob:secret@127.0.0.1:1")
    assert plan.options.tracking_uri == "http://bob:secret@127.0.0.1:1"
    assert "secret" not in " ".join(plan.command)
    assert "http://127.0.0.1:1" in plan.command


@pytest.mark.slow
@pytest.mark.parametrize(
    "uri",
    [
        "localhost:5000",
        "127.0.0.1:5000",
        "foo://x",
        "http://127.0.0.1:x",
        "http://a b:5",
        "http://[::1",
        "htp://bob:secret@h",
    ],
)
def test_a_tracking_uri_that_is_none_is_refused_without_its_password(uri, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        study_of().main(["--tracking-uri", uri, "--results", str(tmp_path / "new")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: tracking_uri: must be")
    assert "secret" not in said
    assert not (tmp_path / "new").exists()


def test_a_server_behind_a_password_is_asked_with_it(tmp_path):
    seen = []

    class Guarded(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    check_tracking(f"http://bob:sec%40ret@127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
    thread.join()
    assert base64.b64decode(seen[0].removeprefix("Basic ")) == b"bob:sec@ret"


def test_a_database_that_does_not_answer_is_refused_without_its_password(capsys):
    with closed_port() as port, pytest.raises(SystemExit) as ended:
        study_of().main(["--tracking-uri", f"postgresql://bob:secret@127.0.0.1:{port}/db"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "refused" in said
    assert "secret" not in said
