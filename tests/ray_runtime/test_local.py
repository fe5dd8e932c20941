"""How a Ray on this machine is started and ended, without starting one."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clsearch.common.errors import ConfigError
from clsearch.ray_runtime import local
from clsearch.ray_runtime.local import (
    LONG_WAITS,
    REAPER,
    SHORT_FOLDERS,
    choose_temporary_folder,
    explain,
    fits_sockets,
    longer_waits,
    start_ray,
)
from tests.refusals import broken


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch):
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


def test_a_temporary_folder_that_is_too_long_for_sockets_is_replaced_by_a_short_one(tmp_path, monkeypatch):
    assert choose_temporary_folder() is None
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))
    assert str(choose_temporary_folder()) in SHORT_FOLDERS
    assert all(fits_sockets(Path(folder)) for folder in SHORT_FOLDERS)
    assert not (tmp_path / ("x" * 60)).exists()
    monkeypatch.setattr(local, "SHORT_FOLDERS", ("/proc/ray",))
    assert broken(choose_temporary_folder) == [("ray", "ray-starts")]


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_that_cannot_be_written_is_refused_before_ray_starts(monkeypatch, name):
    monkeypatch.setenv(name, "/proc")
    with pytest.raises(ConfigError) as refused:
        start_ray()
    (problem,) = refused.value.problems
    assert problem.startswith("ray: must start on this machine; got: Ray could not start, because its temporary folder")
    assert "/proc/ray" in problem
    assert problem.endswith("Set TMPDIR to a folder with room")


def test_the_message_of_a_start_that_failed_names_the_cause_and_the_remedy():
    assert "ulimit -n" in explain(OSError(24, "Too many open files"))
    assert "too busy" in explain(Exception("The current node timed out during startup.\nMore"), slow=True)
    assert explain(ValueError("no\nsecond line")).startswith("because of ValueError: no. ")


def test_a_start_that_took_too_long_is_tried_once_more_with_longer_waits(monkeypatch):
    monkeypatch.setattr(local, "SLOW_SECONDS", 0.0)
    tried, said, message = [], [], "no"

    def fail(verbose, folder):
        tried.append({name: os.environ.get(name) for name in LONG_WAITS})
        raise RuntimeError(message)

    monkeypatch.setattr(local, "_start", fail)
    assert broken(lambda: start_ray(say=said.append)) == [("ray", "ray-starts")]
    assert tried == [dict.fromkeys(LONG_WAITS), LONG_WAITS]
    assert said == ["Ray did not start in time; trying once more with longer waits"]
    monkeypatch.setattr(local, "SLOW_SECONDS", 1000.0)
    assert broken(lambda: start_ray(say=said.append)) == [("ray", "ray-starts")]
    assert len(tried) == 3
    message = "Timed out waiting for a file"
    assert broken(lambda: start_ray(say=said.append)) == [("ray", "ray-starts")]
    assert len(tried) == 5


def test_longer_waits_leave_the_environment_as_it_was(monkeypatch):
    name = next(iter(LONG_WAITS))
    monkeypatch.setenv(name, "5")
    with longer_waits():
        assert os.environ[name] == LONG_WAITS[name]
    assert os.environ[name] == "5"
    assert not {*LONG_WAITS} - {name} & {*os.environ}


def test_the_limit_of_open_files_is_raised_as_far_as_it_may():
    words = (
        "import resource\nfrom clsearch.ray_runtime.local import raise_file_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, {hard}))\nraise_file_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = "".join(f"\n{words.format(hard=hard)}" for hard in (most, 300))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1024", "300"]


def test_groups_are_killed_when_the_input_of_their_reaper_ends():
    sleepers = [subprocess.Popen(["sleep", "100"], start_new_session=True) for _ in range(2)]
    gone = subprocess.Popen(["true"], start_new_session=True)
    gone.wait()
    reaper = subprocess.Popen(["/bin/sh", "-c", REAPER], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert reaper.stdin is not None
    reaper.stdin.write(" ".join(f"-{process.pid}" for process in (gone, *sleepers)).encode() + b"\n")
    reaper.stdin.flush()
    with contextlib.suppress(subprocess.TimeoutExpired):
        reaper.wait(0.5)
    reaper.terminate()  # as a signal to all processes of a job does
    assert [process.poll() for process in sleepers] == [None, None]
    reaper.stdin.close()
    assert [process.wait(10) for process in sleepers] == [-signal.SIGKILL] * 2
    reaper.wait(10)
