"""`python -m clsearch sync`: any store has what results/ has, and once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from clsearch import LogRange, Study
from clsearch.cli.main import main
from clsearch.common.checked_files import write_json
from clsearch.records.resume import study_lock
from clsearch.tracking.stores import PLACE
from tests.integration.servers import Served, free_ports
from tests.integration.test_resume import CONTINUAL, study


def held(uri: str, name: str) -> dict[str, tuple[object, ...]]:
    """What a store holds of a study, by label: status, tags, parameters and every point of every metric."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    found = {}
    for run in client.search_runs([experiment.experiment_id]):
        points = {
            key: sorted((p.step, p.value, p.timestamp) for p in client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
        }
        tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.") and k != PLACE}
        artifacts = sorted(artifact.path for artifact in client.list_artifacts(run.info.run_id))
        assert tags["label"] not in found
        found[tags["label"]] = (run.info.status, tags, run.data.params, points, artifacts)
    return found


@pytest.fixture(scope="module")
def kinds(ray_session: str, results: Path) -> list[str]:
    """Studies of every kind: with a diverging trial, references, several runs of a final evaluation; continual."""
    searched = Study(
        algorithm="ewc",
        name="sent",
        results=results,
        space={"learning_rate": LogRange(0.05, 1e12)},
        hidden=(16,),
        epochs=1,
        seeds=2,
        report_seeds=2,
        sampler="grid",
        grid_points=2,
        references=("finetuning", "joint"),
    )
    assert searched.run().exit_code == 0
    assert study(results, "sent-continual", **CONTINUAL | {"final": True, "tasks": 2}).run().exit_code == 0
    return ["sent", "sent-continual"]


def test_another_store_gets_all_of_it_and_once(kinds: list[str], results: Path, tmp_path: Path, store: Path) -> None:
    uri = f"sqlite:///{shutil.copy(store, tmp_path)}"
    folders = [str(results / name) for name in kinds]
    assert main(["sync", *folders, "--tracking-uri", uri]) == 0
    live = {name: held(f"sqlite:///{results}/mlflow.db", name) for name in kinds}
    sent = {name: held(uri, name) for name in kinds}
    assert sent == live
    assert any(tags["state"] == "failed" for _, tags, *_ in sent["sent"].values())
    assert main(["sync", *folders, "--tracking-uri", uri]) == 0
    assert {name: held(uri, name) for name in kinds} == sent


def test_a_server_that_missed_a_study_is_brought_up_to_date(
    kinds: list[str],
    results: Path,
    server: Served,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri, _ = server
    folder = results / "sent"  # which its own store has
    (folder / "report.html").unlink()
    assert main(["sync", str(folder), "--tracking-uri", uri]) == 0
    printed = capsys.readouterr().out
    live = held(f"sqlite:///{results}/mlflow.db", "sent")
    assert f"{len(live)} runs in MLflow, {len(live)} of them new" in printed
    assert f"Trials   {uri}/#/experiments/" in printed
    assert (folder / "report.html").exists()  # the study's run has one again
    assert held(uri, "sent").keys() == live.keys()
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    assert main(["sync", str(folder), "--tracking-uri", nobody]) == 2
    assert "error: tracking_uri: must be an MLflow server that answers /health" in capsys.readouterr().err


def test_what_cannot_be_sent_is_said(kinds: list[str], results: Path, tmp_path: Path, capsys) -> None:
    assert main(["sync"]) == 2
    assert main(["sync", str(tmp_path / "none")]) == 2
    with study_lock(results / "sent"):
        assert main(["sync", str(results / "sent")]) == 2
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database" * 1000)
    assert main(["sync", str(results / "sent"), "--tracking-uri", f"sqlite:///{broken}"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [error.partition(";")[0] for error in errors[:3]] == [
        "error: folders: must name at least one study, results/<study>",
        "error: results: must be the folder of a study, results/<study>",
        "error: name: must be a study that no other process runs",
    ]
    assert errors[3].startswith("error: MLflow did not take ")


def test_a_study_that_was_killed_is_sent_as_unfinished_from_a_process_of_its_own(
    kinds: list[str], results: Path, tmp_path: Path, store: Path
) -> None:
    shutil.copy(store, tmp_path)
    copy = tmp_path / "sent"
    shutil.copytree(results / "sent", copy)
    content = json.loads((copy / "study.json").read_text())
    assert content["state"] == "finished"
    write_json(copy / "study.json", content | {"state": "running"})
    words = [sys.executable, "-m", "clsearch", "sync", "sent"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sent: ")
    found = held(f"sqlite:///{tmp_path}/mlflow.db", "sent")
    assert found["study"][0] == "KILLED"
