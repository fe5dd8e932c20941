"""A worker that is killed, a tracking server that dies."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from mlflow.tracking import MlflowClient

from clsearch import LogRange, Study
from clsearch.cli.main import main
from clsearch.common.checked_files import read_checked
from clsearch.data.datasets import read_data
from clsearch.execution.final_evaluation import measure
from clsearch.records.test_ledger import read_openings
from clsearch.tasks.test_data import read_test
from clsearch.tracking import sender as tracking
from clsearch.training.loop import learn_sequence
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import build_trial
from tests.integration.servers import Served, wait_for_answer

SPACE = {"distillation_factor": LogRange(0.1, 10)}
TINY = {"algorithm": "lwf", "space": SPACE, "hidden": (16,), "seeds": 2, "final": False}


def test_a_server_that_hangs_costs_the_study_seconds_and_is_brought_up_to_date_later(
    ray_session: str,
    results: Path,
    own_server: Served,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE_SECONDS", 8.0)
    uri, process = own_server
    folder = results / "hung"

    def hang() -> None:
        while not list(folder.glob("trials/trial_*/record.json")):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGSTOP)

    hanger = threading.Thread(target=hang)
    hanger.start()
    result = Study(name="hung", results=results, tracking_uri=uri, trials=3, epochs=1, **TINY).run()
    hanger.join()
    ended = time.time()
    assert result.exit_code == 0
    assert ended - max(record.reported for record in result.records) / 1000 < tracking.PATIENCE_SECONDS + 15
    assert "python -m clsearch sync" in capsys.readouterr().err
    os.killpg(process.pid, signal.SIGCONT)
    wait_for_answer(uri)
    for _ in range(2):  # what the server still does of what it was asked for while it hung may come after the first
        assert main(["sync", str(folder), "--tracking-uri", uri]) == 0
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("hung").experiment_id])
    labels = {run.data.tags["label"].split()[0]: run.info.status for run in runs}
    names = ("study", "reference_finetuning", *(f"trial_{n:05d}" for n in range(3)))
    assert (labels, len(runs)) == (dict.fromkeys(names, "FINISHED"), 5)


@contextlib.contextmanager
def forwarded(port: int) -> Iterator[tuple[int, threading.Event]]:
    """A port that leads to another one, except while the event is set: then nobody answers."""
    cut, ended = threading.Event(), threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if cut.is_set():
                return
            with socket.create_connection(("127.0.0.1", port)) as behind:
                ends = [self.request, behind]
                while not (ended.is_set() or cut.is_set()):
                    for end in select.select(ends, [], [], 0.05)[0]:
                        if not (content := end.recv(65536)):
                            return
                        ends[end is self.request].sendall(content)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, args=(0.05,)).start()
        yield proxy.server_address[1], cut
        ended.set()
        proxy.shutdown()


def test_a_server_has_all_of_a_study_that_it_missed_the_middle_of(
    ray_session: str,
    results: Path,
    server: Served,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri, _ = server
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.3)
    with forwarded(int(uri.rpartition(":")[2])) as (port, cut):

        def away() -> None:
            while not list((results / "back").glob("trials/trial_*/record.json")):
                time.sleep(0.01)
            cut.set()
            time.sleep(3)
            cut.clear()

        leaver = threading.Thread(target=away)
        leaver.start()
        settings = TINY | {"epochs": 30, "max_concurrent": 1}
        place = f"http://127.0.0.1:{port}"
        result = Study(name="back", results=results, tracking_uri=place, trials=6, **settings).run()
        leaver.join()
    assert result.exit_code == 0
    errors = capsys.readouterr().err
    assert errors.count("MLflow does not accept records") == 1
    assert "Some records were not sent to MLflow" not in errors
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("back").experiment_id], "tags.kind = 'trial'")
    found = {run.data.tags["label"].split()[0]: run.data.metrics["average_accuracy"] for run in runs}
    assert found == {r.label: pytest.approx(r.metrics["average_accuracy"]) for r in result.records}
    assert len(runs) == 6
    for run in runs:
        points = client.get_metric_history(run.info.run_id, "average_accuracy")
        assert sorted(point.step for point in points) == [1, 2, 3, 4, 5]
        paths = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert paths == {"accuracy_matrix.json", "accuracy_matrix.png"}


def workers_of(name: str) -> list[psutil.Process]:
    """Workers of this process's own Ray that are at work on something of this name."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [process] * any(name in word for word in process.cmdline())
    return found


@contextlib.contextmanager
def kill_workers(folder: Path, times: dict[str, int]) -> Iterator[list[str]]:
    """Kill the worker that trains a trial after a task, as many times as given; yield the labels of the trials."""
    killed: list[str] = []
    seen: set[tuple[str, bytes]] = set()
    ended = threading.Event()

    def kill() -> None:
        pids: set[int] = set()
        found = list[psutil.Process]()
        while len(killed) < sum(times.values()) and not ended.wait(0.005):
            if not found:  # looked for while it starts: it takes longer than a task
                found = [process for process in workers_of("ray::LwFTrainable") if process.pid not in pids]
            for label in (label for label, wanted in times.items() if found and killed.count(label) < wanted):
                with contextlib.suppress(FileNotFoundError):
                    file = folder / "trials" / label / "state.pt"
                    state = read_checked(file)
                    # after its third task it could train another trial by the time it is killed
                    if (label, state) not in seen and TrialState.summary(state, file)[1] <= 3:
                        found[0].kill()
                        killed.append(label)
                        pids.add(found[0].pid)
                        seen.add((label, state))
                        found = []

    killer = threading.Thread(target=kill)
    killer.start()
    yield killed
    ended.set()
    killer.join()


def test_a_trial_resumes_from_its_last_task_when_its_worker_dies_and_fails_when_too_many_die(
    ray_session: str, results: Path
) -> None:
    folder = results / "killed"
    settings = TINY | {"epochs": 30, "max_concurrent": 1, "max_failures": 1}
    with kill_workers(folder, {"trial_00000": 2, "trial_00001": 1}) as killed:
        result = Study(name="killed", results=results, trials=2, **settings).run()
    assert killed == ["trial_00000", "trial_00000", "trial_00001"]
    assert result.exit_code == 0
    assert [(r.state, r.restarts) for r in result.records] == [("failed", 1), ("finished", 1)]
    (reason,) = pd.read_csv(folder / "trials.csv").query("state == 'failed'").reason
    assert any(word in reason for word in ("died", "SIGKILL", "killed", "unavailable")), reason
    record = result.records[1]
    assert json.loads((folder / "trials" / record.label / "record.json").read_text())["restarts"] == 1
    state = learn_sequence(build_trial(result.plan.trial_config(record.values), record.seeds))
    assert torch.equal(torch.tensor(record.accuracy, dtype=torch.float64)[:, 1:], state.accuracy[:, 1:])
    assert len(record.times) == 5
    again = Study(name="killed", results=results, trials=2, **settings).run()
    assert [(r.state, r.reason) for r in again.records] == [(r.state, r.reason) for r in result.records]


def test_a_worker_that_is_killed_in_the_final_evaluation_is_replaced_and_changes_no_number(
    ray_session: str, results: Path
) -> None:
    killed = threading.Event()
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.05):  # the search of all processes takes a core
            for process in (
                workers_of("ray::_measure_in_worker") if (results / "replaced" / "final.json").exists() else []
            ):
                process.kill()
                killed.set()
                return

    killer = threading.Thread(target=kill)
    killer.start()
    settings = TINY | {"final": True, "report_seeds": 2, "references": (), "tasks": 2}
    result = Study(name="replaced", results=results, trials=1, epochs=40, **settings).run()
    ended.set()
    killer.join()
    assert killed.is_set()
    assert result.exit_code == 0
    config = result.plan.trial_config(result.best.values)
    expected = measure(config, result.plan.report_seeds, read_data(config.source, None), read_test(config))
    np.testing.assert_array_equal(result.final.reported.test, expected["test"])


def test_an_interrupt_in_the_final_evaluation_ends_the_study_with_what_the_search_found(
    ray_session: str, results: Path
) -> None:
    def interrupt() -> None:
        while not ((results / "stopped" / "final.json").exists() and workers_of("ray::_measure_in_worker")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    settings = TINY | {"final": True, "report_seeds": 2, "references": ()}
    result = Study(name="stopped", results=results, trials=1, epochs=60, **settings).run()
    interrupter.join()
    assert (result.exit_code, result.interrupted, result.final) == (130, True, None)
    assert result.best.number == 0
    folder = results / "stopped"
    assert (folder / "best.json").exists()
    kept = json.loads((folder / "final.json").read_text())  # that test data was opened is kept, whatever came of it
    opened = [line for line in read_openings(results) if line["study"] == "stopped"]
    assert (kept["openings"], kept["rows"]) == (opened, [])
    assert not (folder / "final.csv").exists()
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("stopped")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["kind"]: run.info.status for run in runs} == {"study": "KILLED", "trial": "FINISHED"}
    (parent,) = [run for run in runs if run.data.tags["kind"] == "study"]
    assert parent.data.tags["test_opened"] == opened[0]["when"]
