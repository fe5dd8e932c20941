"""`ray job submit`, as docs/cluster.md has it, on a real head with a token."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.integration.clusters import own_environment
from tests.integration.servers import free_ports

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]

TINY = ["--trials", "2", "--seeds", "2", "--epochs", "1", "--hidden", "16", "--report-seeds", "2"]
TINY += ["--max-concurrent", "1"]


def page_lines(beginning: str) -> list[str]:
    """The commands of docs/cluster.md that begin so."""
    lines = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith(beginning)]


@dataclass
class Head:
    """A head that runs. url: its job server's. environment: of who has its token."""

    url: str
    environment: dict[str, str]
    checkout: Path

    def submit(self, results: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The page's command, on this head, into these results."""
        (command,) = page_lines("ray job submit --working-dir .")
        words = shlex.split(command, comments=True)
        assert words[words.index("--results") + 1] == "/shared/results"
        words[words.index("--results") + 1] = results
        return subprocess.run(
            [*words, *TINY, *options],
            cwd=self.checkout,
            env=self.environment | {"RAY_API_SERVER_ADDRESS": self.url} | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks, and things beside it that must not travel."""
    folder = tmp_path_factory.mktemp("checkout") / "clsearch"
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name in ("results/old/study.json", "data/MNIST/raw/images", ".venv/bin/python", "mlflow.db"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("stays here")
    return folder


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Iterator[Head]:
    """`ray start --head` with a token, its ports and its session directory its own."""
    home = tmp_path_factory.mktemp("head")
    environment = own_environment(home)
    (token,), (start,) = page_lines("ray get-auth-token"), page_lines("ray start --head")
    subprocess.run(shlex.split(token, comments=True), env=environment, check=True, capture_output=True)
    # Sockets' names may have 107 letters, which pytest's folders nearly fill.
    session = Path("/tmp") / f"ray-{os.getpid()}"
    gcs, dashboard, agent = free_ports(3)
    ports = ["--port", str(gcs), "--dashboard-port", str(dashboard), "--dashboard-agent-listen-port", str(agent)]
    words = [*shlex.split(start, comments=True), "--num-cpus", "2", "--temp-dir", str(session), *ports]
    with (home / "log").open("w") as log:
        subprocess.run(words, env=environment, check=True, stdout=log, stderr=log, timeout=120)
    yield Head(f"http://127.0.0.1:{dashboard}", environment, checkout)
    own = [p for p in psutil.process_iter(["cmdline"]) if any(str(session) in word for word in p.info["cmdline"] or ())]
    for process in own:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(own, timeout=30)
    shutil.rmtree(session, ignore_errors=True)


@pytest.fixture(scope="module")
def first(head: Head, results: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    done = head.submit(str(results), "--name", "job")
    return results / "job", done


def test_a_study_runs_as_a_job_and_its_results_outlive_it(first) -> None:
    folder, done = first
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(pd.read_csv(folder / "trials.csv").state) == {"finished"}
    said = done.stdout
    assert said.index(f"results go to {folder}") < said.index("trials ·") < said.index(f"Record   {folder}/")


def test_its_log_has_plain_lines(first) -> None:
    _, done = first
    said = done.stdout[done.stdout.index("Running entrypoint") : done.stdout.rindex("Record ")]
    assert "\x1b" not in said
    assert "\r" not in said
    assert re.search(r"^2/2 trials · 0 running · best \d\d\.\d\d %$", said, re.MULTILINE)
    assert "Traceback" not in said


def test_only_the_code_travels(head: Head, first, tmp_path: Path) -> None:
    folder, _ = first
    study = json.loads((folder / "study.json").read_text())
    (package,) = re.findall(r"\+([0-9a-f]{16})$", study["commit"])
    (place,) = Path("/tmp").glob(f"ray-{os.getpid()}/session_2*/runtime_resources/working_dir_files/_ray_pkg_{package}")
    names = {path.name for path in place.iterdir()}
    assert {"clsearch", "studies", "pyproject.toml", "README.md"} <= names
    assert not names & {".venv", "results", "data", "mlflow.db", "tests", "docs"}
    assert sum(path.stat().st_size for path in place.rglob("*")) < 2 * 1024**2


def test_results_that_would_go_with_the_job_are_refused(head: Head) -> None:
    done = head.submit("results")
    assert done.returncode == 1  # of `ray job submit`, whatever the job's is
    assert "error: results: must be a folder that outlives the job" in done.stdout
    assert "--results /shared/results" in done.stdout
    assert "exit code 2" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout


def test_without_the_token_nothing_is_taken(head: Head, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 32)
    began = time.monotonic()
    done = head.submit("/nowhere", HOME=str(tmp_path))
    assert done.returncode != 0
    assert "uthent" in done.stdout + done.stderr
    assert time.monotonic() - began < 60
