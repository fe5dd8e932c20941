"""A worker that is killed, a tracking server that dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from mlflow.tracking import MlflowClient

from clsearch import LogRange, Study

SPACE = {"distillation_factor": LogRange(0.1, 10)}
TINY = {"algorithm": "lwf", "space": SPACE, "hidden": (16,), "seeds": 2}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real MLflow server on loopback: its URI and process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    words = ["-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--workers", "1"]
    words += ["--artifacts-destination", str(tmp_path / "served"), "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2).close()
            break
        except OSError:
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
    yield uri, process
    stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and the workers of its own session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_study_lands_on_a_tracking_server(
    ray_session: str, results: Path, server: tuple[str, subprocess.Popen[bytes]]
) -> None:
    uri, _ = server
    result = Study(name="served", results=results, tracking_uri=uri, trials=2, epochs=1, **TINY).run()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("served")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'", order_by=["attributes.start_time"])
    found = sorted(run.data.metrics["average_accuracy"] for run in runs)
    assert found == pytest.approx(sorted(r.metrics["average_accuracy"] for r in result.records))
    paths = {artifact.path for artifact in client.list_artifacts(runs[0].info.run_id)}
    assert paths == {"accuracy_matrix.json", "accuracy_matrix.png"}


def test_a_server_that_dies_costs_the_study_nothing_but_a_warning(
    ray_session: str,
    results: Path,
    server: tuple[str, subprocess.Popen[bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri, process = server
    folder = results / "orphaned"

    def kill() -> None:
        while not (folder / "study.json").exists():
            time.sleep(0.01)
        stop(process)

    killer = threading.Thread(target=kill)
    killer.start()
    result = Study(name="orphaned", results=results, tracking_uri=uri, trials=2, epochs=1, **TINY).run()
    killer.join()
    assert result.exit_code == 0
    assert set(pd.read_csv(folder / "trials.csv").state) == {"finished"}
    assert capsys.readouterr().err.count("MLflow stopped taking records") == 1


def test_a_killed_worker_fails_its_trial_with_a_reason_and_the_study_goes_on(ray_session: str, results: Path) -> None:
    folder = results / "killed"

    def kill() -> None:
        while True:
            time.sleep(0.005)
            if not list(folder.glob("trials/trial_*/state.pt")):
                continue
            for process in psutil.process_iter(["cmdline"]):
                if any("ray::LwFTrainable" in word for word in process.info["cmdline"] or []):
                    os.kill(process.pid, signal.SIGKILL)
                    return

    killer = threading.Thread(target=kill)
    killer.start()
    result = Study(name="killed", results=results, trials=4, epochs=40, max_concurrent=1, **TINY).run()
    killer.join()
    states = [r.state for r in result.records]
    assert states.count("failed") == 1
    assert states.count("finished") == 3
    (reason,) = pd.read_csv(folder / "trials.csv").query("state == 'failed'").reason
    assert "died" in reason or "SIGKILL" in reason or "killed" in reason
