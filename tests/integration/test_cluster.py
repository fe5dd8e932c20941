"""Several nodes: work is spread over them, one may die, and what they don't share is noticed before anything runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clsearch.methods.registry import configure
from clsearch.records.trials import TrialRecord, read_trials
from clsearch.training.loop import learn_sequence
from clsearch.training.trial_setup import build_trial
from tests.integration.clusters import Nodes, cluster

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]

TINY = ["--seeds", "2", "--hidden", "16", "--no-final", "--trials", "2"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    home = tmp_path_factory.mktemp("cluster")
    second = {"node_name": "second", "num_cpus": 1, "num_gpus": 4}
    with cluster(home, second, {"node_name": "third", "num_cpus": 1}) as held:
        yield held


@pytest.fixture
def folder(results: Path, request: pytest.FixtureRequest) -> Path:
    """results/<study>, beside those of other tests."""
    return results / f"cluster-{request.node.originalname[5:60]}"


def started(nodes: Nodes, folder: Path, *options: str) -> subprocess.Popen[str]:
    """The study of the README, in the cluster. folder: results/<study>."""
    words = [sys.executable, "studies/lwf_temperature_sweep.py", "--ray-address", nodes.address]
    return subprocess.Popen(
        [*words, "--results", str(folder.parent), "--name", folder.name, *options],
        cwd=ROOT,
        env=nodes.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_until(true: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 120
    while not (found := true()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def in_peace(record: TrialRecord) -> np.ndarray:
    """The matrices of a record's configuration and seeds, trained without Ray."""
    settings = {name: value for name, value in record.settings.items() if value is not None}
    return learn_sequence(build_trial(configure(record.algorithm, settings), record.seeds)).accuracy.numpy()


def test_a_node_that_dies_gives_its_trials_to_the_others(nodes: Nodes, folder: Path) -> None:
    process = started(nodes, folder, *TINY, "--epochs", "20")

    def on_third() -> bool:
        return any(r.place == "third" and r.state == "running" for r in read_trials(folder).values())

    wait_until(on_third, process)
    nodes.kill("third")
    code, _, err = ended(process)
    assert code == 0, err
    records = read_trials(folder)
    assert sorted(records) == ["reference_finetuning", "trial_00000", "trial_00001"]
    assert {r.state for r in records.values()} == {"finished"}
    assert sum(r.restarts for r in records.values()) == 1
    (moved,) = [r for r in records.values() if r.restarts]
    assert {r.place for r in records.values()} <= {"second", "third"}
    assert moved.place == "second"
    assert len(moved.times) == 5
    for record in records.values():
        assert np.array_equal(np.array(record.accuracy, dtype=float), in_peace(record), equal_nan=True)


@pytest.fixture(scope="module")
def apart(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that another node of the cluster, `apart`, sees as an empty one of its own."""
    folder = tmp_path_factory.mktemp("apart")
    start = f"mount -t tmpfs none {folder} && exec ray start --address {nodes.address} --num-cpus 2 --node-name apart"
    words = ["unshare", "--mount", "sh", "-c", f"{start} --block --dashboard-agent-listen-port 0"]
    log = (folder.parent / "apart.log").open("w")
    process = subprocess.Popen(words, env=nodes.environment, stdout=log, stderr=log, start_new_session=True)
    wait_until(lambda: "Ray runtime started" in (folder.parent / "apart.log").read_text(), process)
    yield folder
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)


def test_a_node_that_does_not_share_the_results_is_named(nodes: Nodes, apart: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        code, _, err = ended(started(nodes, apart / "results" / "study", *TINY, "--epochs", "1"))
        if code == 2 or time.monotonic() > deadline:  # the node has come
            break
    assert code == 2, err
    assert "error: results: must be a folder that all nodes of the cluster share; apart (" in err
    assert "Traceback" not in err
    assert not list((apart / "results").rglob("state.pt"))


def test_nodes_need_no_data_of_their_own(nodes: Nodes, apart: Path, folder: Path, write_mnist) -> None:
    """The driver alone reads the data root; the nodes have what it read from Ray's object store."""
    write_mnist(apart / "data")
    options = ["--benchmark", "split-mnist", "--data-root", str(apart / "data"), "--epochs", "1", "--trials", "1"]
    code, _, err = ended(started(nodes, folder, *TINY, *options, "--cpus-per-trial", "2"))  # as many as it alone has
    assert code == 0, err
    assert {(r.place, r.state) for r in read_trials(folder).values()} == {("apart", "finished")}
