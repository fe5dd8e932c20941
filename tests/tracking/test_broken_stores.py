"""Stores that are away, that break or that refuse: told once, and the study goes on."""

import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

from clsearch.tracking import sender as tracking
from clsearch.tracking.study_runs import Runs
from tests.builders import closed_port, plan_of, record_of
from tests.tracking.sending import SPACE, VALUES, client_of, contents, sent, timed, tracker_of

pytestmark = pytest.mark.slow


def test_a_server_that_is_gone_is_told_once_and_the_study_goes_on(tmp_path):
    plan = plan_of(tmp_path)
    records = [record_of(plan, n, [0.5] * 3) for n in range(3)]
    with closed_port() as port:
        warning, end = sent(plan, records, f"http://127.0.0.1:{port}")
    assert "MLflow does not accept records" in warning
    assert "the study continues" in warning
    assert "Some records were not sent to MLflow; results/ is complete" in end
    assert list(tmp_path.iterdir()) == []


def test_a_uri_that_mlflow_does_not_know_is_told_once_too(tmp_path):
    plan = plan_of(tmp_path)
    warning, _ = sent(plan, [record_of(plan, 0, [0.5] * 3)], "gopher://somewhere")
    assert "gopher" in warning


def test_a_store_that_breaks_half_way_is_told_once_and_the_study_goes_on(told, results, tmp_path):
    shutil.copy(results / "mlflow.db", tmp_path / "mlflow.db")
    plan = plan_of(tmp_path, name="breaks")
    warnings = []
    tracker = tracker_of(plan, warnings)
    tracker.begin()
    tracker.update(record_of(plan, 0, [0.5] * 3))
    reached = threading.Event()
    tracker.tasks.put(lambda runs: reached.set())
    assert reached.wait(30)
    assert warnings == []
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    for n in range(1, 4):
        tracker.update(record_of(plan, n, [0.5] * 3))
    tracker.send_choice({"metrics": {"average_accuracy": 0.5}}, 1)
    tracker.end("finished")
    assert len(warnings) == 2
    assert re.match(r"MLflow does not accept records \(.*not a database", warnings[0])
    assert warnings[1].startswith("Some records were not sent to MLflow")


def test_what_a_store_that_was_away_missed_is_sent_when_it_is_back(told, results, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.2)
    plan = plan_of(results, "ewc", space=SPACE, name="away", seeds=2, tasks=2)
    warnings, back = [], threading.Event()
    tracker = tracker_of(plan, warnings)
    connect = Runs.connect

    def gone(runs):
        if not back.is_set():
            raise ConnectionError("nobody answers")
        connect(runs)

    tracker.begin()
    tracker.update(timed(record_of(plan, 0, [0.7, 0.7], VALUES, state="running", learned=1)))
    reached = threading.Event()
    tracker.tasks.put(lambda runs: reached.set())
    assert reached.wait(30)
    monkeypatch.setattr(Runs, "connect", gone)
    tracker.tasks.put(lambda runs: runs.connect())  # the store goes away
    tracker.update(timed(record_of(plan, 0, [0.7, 0.7], VALUES)))
    while not warnings:
        time.sleep(0.01)
    back.set()
    tracker.send_choice({"metrics": {"average_accuracy": 0.7}}, 1)
    sent_all = threading.Event()
    tracker.tasks.put(lambda runs: sent_all.set())
    assert sent_all.wait(30)
    tracker.end("finished")
    assert len(warnings) == 1
    statuses = {name: status for name, status, *_ in contents(told, "away").values()}
    assert statuses == {"away": "FINISHED", "#0 EWC factor=0.3 p=1.5": "FINISHED"}


def test_a_record_that_a_store_refuses_does_not_hold_up_the_others(told, results):
    plan = plan_of(results, "ewc", space=SPACE, name="refused", seeds=2, tasks=2)
    warnings = []
    tracker = tracker_of(plan, warnings)
    tracker.begin()
    tried = []

    def refused(runs):
        tried.append(1)
        raise ValueError("no such name")

    tracker.tasks.put(refused)
    tracker.update(timed(record_of(plan, 0, [0.7, 0.7], VALUES)))
    tracker.end("finished")
    assert len(tried) == tracking.TRIES
    assert re.match(r"MLflow does not accept records \(ValueError: no such name\)", warnings[0])
    assert warnings[1].startswith("Some records were not sent to MLflow")
    assert len(contents(told, "refused")) == 2


def test_a_store_whose_maker_was_killed_is_made_anew(tmp_path):
    """MLflow can't open a SQLite file whose tables were made in part."""
    half = "import sys, threading, os, time\nfrom pathlib import Path\n"
    half += "from clsearch.tracking.run_store import new_store\n"
    half += "threading.Thread(target=new_store, args=(Path(sys.argv[1]),), daemon=True).start()\n"
    half += (
        "while not os.path.exists(sys.argv[1]) or os.path.getsize(sys.argv[1]) < 1:\n    time.sleep(0.001)\nos._exit(9)"
    )
    killed = tmp_path / ".mlflow.db.0123456789abcdef.tmp"
    subprocess.run([sys.executable, "-c", half, str(killed)], check=False)
    assert killed.stat().st_size
    plan = plan_of(tmp_path, name="first")
    assert sent(plan) == []
    assert not killed.exists()
    assert (
        len(client_of(tmp_path).search_runs([client_of(tmp_path).get_experiment_by_name("first").experiment_id])) == 1
    )
