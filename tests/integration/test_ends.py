"""How a study ends that is not let run: on a full disk, at Ctrl-C, with Ray; and what its mirror has by then."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pandas as pd
import psutil
import pytest
from mlflow.tracking import MlflowClient

from tests.integration.scripts import wait_for

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
SWEEP = "studies/lwf_temperature_sweep.py"
SMALL = ["--seeds", "1", "--hidden", "16", "--no-final", "--max-concurrent", "1"]


def begun(words: list[str], *before: str, stderr: int = subprocess.PIPE, **more: str) -> subprocess.Popen[str]:
    """A script in a process and a session of its own, away from any Ray of the tests.

    before: what enters a place. more: variables of its environment.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    return subprocess.Popen(
        [*before, sys.executable, *words],
        cwd=ROOT,
        env=inherited | more,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, list[str]]]:
    """A pseudo-terminal to write to, and what was written, once it is closed."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    seen: list[str] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # closed at the other end
            while content := os.read(own, 65536):
                seen.append(content.decode(errors="replace"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield theirs, seen
    finally:
        with contextlib.suppress(OSError):
            os.close(theirs)
        reader.join(30)
        os.close(own)


def at_work(processes: list[psutil.Process]) -> list[str]:
    """The names of those that still run; one that has ended and that nobody has asked after does not."""
    names = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            names += [process.name()] * (process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return names


def finished(folder: Path) -> dict[str, bytes]:
    """Label -> record of each trial of a study that is finished."""
    found = {path.parent.name: path.read_bytes() for path in folder.glob("trials/trial_*/record.json")}
    return {label: record for label, record in found.items() if json.loads(record)["state"] == "finished"}


@contextlib.contextmanager
def cleared_away(process: subprocess.Popen[str]) -> Iterator[list[psutil.Process]]:
    """Whatever becomes of a test, nothing of a process that still runs stays, and nothing that the test lists."""
    listed: list[psutil.Process] = []
    try:
        yield listed
    finally:
        if process.poll() is None:
            own = psutil.Process(process.pid)
            listed += [own, *own.children(recursive=True)]
        for one in listed:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate()


# A disk that is full


@dataclass
class Disk:
    """A small file system of its own. place: where it is, for who has entered it. seen: from outside."""

    place: Path
    entered: list[str]
    seen: Path

    def fill(self) -> None:
        """Until not a byte more can be written."""
        with (self.seen / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**16))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mounted where nobody else sees it, and gone with the process that holds it."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs "$0" && echo there && exec cat']
    with subprocess.Popen([*words, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "there\n"
        entered = ["nsenter", "--target", str(holder.pid), "--mount"]
        yield Disk(place, entered, Path(f"/proc/{holder.pid}/root{place}"))
        holder.communicate()


@pytest.mark.mount
def test_a_full_disk_ends_a_study_which_goes_on_once_there_is_room(
    disk: Disk, tmp_path: Path, store: Path, run_here
) -> None:
    """The room is on another disk, to which all is moved."""
    shutil.copy(store, disk.seen)
    words = [str(ROOT / SWEEP), *SMALL, "--epochs", "5", "--trials", "4", "--results", str(disk.place)]
    folder = disk.seen / "lwf_temperature_sweep"
    process = begun(words, *disk.entered)

    def ended() -> bool:
        disk.fill()  # again: what is removed leaves room
        return process.poll() is not None

    with cleared_away(process):
        wait_for(lambda: finished(folder), process)
        wait_for(ended)
        _, errors = process.communicate()
    assert process.returncode == 1, errors
    assert "error: results: must stay writable while a study runs; got [Errno 28] No space left on device" in errors
    assert "Re-run the same command to resume." in errors
    assert "Traceback" not in errors
    kept = finished(folder)
    assert 1 <= len(kept) < 4
    moved = tmp_path / "roomy"
    shutil.copytree(disk.seen, moved, ignore=lambda _, names: {"ballast"} & {*names})
    options = words[1 : words.index("--results")]
    again = run_here(SWEEP, *options, "--results", str(moved))
    assert again.returncode == 0, again.stderr
    folder = moved / folder.name
    assert list(pd.read_csv(folder / "trials.csv").state) == ["finished"] * 4
    assert kept.items() <= finished(folder).items()
    client = MlflowClient(f"sqlite:///{moved}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(folder.name).experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 6  # the study and the reference, too


# Ctrl-C


def test_ctrl_c_ends_a_script_and_all_that_it_started_and_says_how_to_go_on(tmp_path: Path, store: Path) -> None:
    shutil.copy(store, tmp_path)
    words = [SWEEP, *SMALL, "--epochs", "20", "--trials", "40", "--results", str(tmp_path)]
    with terminal() as (stderr, seen):
        process = begun(words, stderr=stderr)
        os.close(stderr)
        with cleared_away(process) as own:
            wait_for(lambda: re.search(r"\d/40 trials · \d running · best \d\d\.\d\d %", "".join(seen)), process)
            own += psutil.Process(process.pid).children(recursive=True)
            assert {"gcs_server", "raylet"} <= set(at_work(own))
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=60)
            until = time.monotonic() + 10
            while (left := at_work(own)) and time.monotonic() < until:
                time.sleep(0.1)
    shown = "".join(seen)
    assert (process.returncode, left) == (130, []), shown
    assert "Traceback" not in shown
    assert re.search(r"#0 LwF factor=\S+ τ=\S+  \d\d\.\d\d %  \d+\.\d s", shown)  # the last trials
    assert "\x1b[1A\x1b[2K" in shown  # which moved, and were taken away
    (command,) = re.findall(r"^Resume +(.*)", said, re.MULTILINE)
    assert {SWEEP, "--trials", "40", "--results", str(tmp_path)} <= set(shlex.split(command))


# Ray


SECRETS = {
    "AWS_ACCESS_KEY_ID": "planted-key-id",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-key",
    "AWS_SESSION_TOKEN": "planted-session",
    "AZURE_STORAGE_KEY": "planted-azure",
    "GOOGLE_API_KEY": "planted-google",
    "HF_TOKEN": "planted-hub",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow",
}


@dataclass
class End:
    """How a study ended. learned: label -> tasks learned, of the trials in its record."""

    code: int
    said: str
    seconds: float
    left: list[str]
    states: set[str]
    learned: dict[str, int]


def ended(how: str, words: list[str], folder: Path, environment: dict[str, str]) -> End:
    """Begin a study, end it while it trains, and see what is left. how: the process that is killed; or its group."""
    process = begun(words, **environment)
    with cleared_away(process) as own:
        wait_for(lambda: "running" in states_in(folder), process)
        own += psutil.Process(process.pid).children(recursive=True)
        assert {"gcs_server", "raylet"} <= set(at_work(own))
        assert listening([psutil.Process(process.pid), *own]) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        began = time.monotonic()
        if how == "group":
            for _ in range(2):  # as `timeout` does
                os.killpg(process.pid, signal.SIGTERM)
        elif how == "driver":
            process.kill()
        else:
            next(one for one in own if one.name() == how).kill()
        said, errors = process.communicate(timeout=100)
        seconds = time.monotonic() - began
        while (left := at_work(own)) and time.monotonic() < began + seconds + 15:
            time.sleep(0.1)
    records = [json.loads(path.read_text()) for path in folder.glob("trials/*/record.json")]
    learned = {record["label"]: record["tasks_learned"] for record in records}
    return End(process.returncode, said + errors, seconds, left, {record["state"] for record in records}, learned)


def states_in(folder: Path) -> set[str]:
    """The states of the trials that a study has recorded."""
    return {json.loads(path.read_text())["state"] for path in folder.glob("trials/*/record.json")}


def listening(processes: list[psutil.Process]) -> set[str]:
    """The addresses at which processes listen."""
    found: set[str] = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


def test_a_study_ends_with_ray_in_seconds_keeps_no_secret_and_goes_on(tmp_path: Path, store: Path) -> None:
    """In turn a process group that is ended, Ray's processes that are killed, and the driver; each time it goes on."""
    shutil.copy(store, tmp_path)
    words = [SWEEP, *SMALL, "--epochs", "60", "--trials", "40", "--results", str(tmp_path)]
    folder = tmp_path / "lwf_temperature_sweep"
    (home := tmp_path / "home").mkdir()
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as session:  # sockets have short paths
        environment = SECRETS | {"HOME": str(home), "RAY_TMPDIR": session}
        hows = ("group", "raylet", "gcs_server", "driver")
        ends = {how: ended(how, words, folder, environment) for how in hows}
        kept = [path for place in (tmp_path, Path(session)) for path in place.rglob("*") if path.is_file()]
        assert any(path.name == "raylet.out" for path in kept)
        for secret in SECRETS.values():
            assert not [path for path in kept if secret.encode() in path.read_bytes()]
            assert not [end for end in ends.values() if secret in end.said]
    assert {how: (end.code, end.left) for how, end in ends.items()} == {
        "group": (130, []),
        "raylet": (1, []),
        "gcs_server": (1, []),
        "driver": (-signal.SIGKILL, []),
    }
    for how in hows[:3]:
        end = ends[how]
        assert end.seconds < 40, end.seconds  # on a busy machine; benchmarks/chaos.py measures
        assert end.states <= {"finished", "unfinished"}
        assert "Traceback" not in end.said
        assert re.search(r"^Resume +", end.said, re.MULTILINE)
        assert ("Ray died: its " in end.said) is (how != "group")
    for before, after in pairwise(ends[how] for how in hows[:3]):
        assert before.learned.keys() <= after.learned.keys()
        assert all(before.learned[label] <= after.learned[label] for label in before.learned)
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o77 == 0


# The mirror


def test_a_trial_is_in_the_mirror_while_others_run_and_a_study_resumes_from_it(
    run_here, results: Path, tmp_path: Path
) -> None:
    folder, copy = results / "followed", tmp_path / "bucket" / "followed"
    found: list[tuple[str, int]] = []

    def arrived() -> bool:
        with contextlib.suppress(json.JSONDecodeError):  # while one is being copied
            return bool(finished(copy))
        return False

    def watch() -> None:
        wait_for(arrived)
        found.append((json.loads((folder / "study.json").read_text())["state"], len(finished(folder))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    args = ["--name", "followed", *SMALL, "--epochs", "20", "--results", str(results)]
    done = run_here(SWEEP, *args, "--trials", "4", "--mirror", (tmp_path / "bucket").as_uri())
    watcher.join()
    assert done.returncode == 0, done.stderr
    ((state, ended),) = found
    assert state == "running"
    assert 1 <= ended < 4
    files = {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert files == {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    again = run_here(SWEEP, *args, "--trials", "5")
    assert again.returncode == 0, again.stderr
    assert list(pd.read_csv(folder / "trials.csv").state) == ["finished"] * 5
    records = [path for path in files if path.name == "record.json"]
    assert len(records) == 5  # one is the reference
    for path in records:
        assert (folder / path).read_bytes() == files[path]
