"""A script's study with a command line, in this process and its Ray: a process of its own takes 15 s of a core."""

from __future__ import annotations

import runpy
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_here(ray_session: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a script's study with these options; gives what a process would have left."""

    def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr("sys.argv", [script])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / script))["study"].main(list(args))
        said = capsys.readouterr()
        return subprocess.CompletedProcess([script, *args], int(ended.value.code or 0), said.out, said.err)

    return run


def wait_for(there: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Until something is there; a process that ends before is a failure."""
    until = time.monotonic() + 120
    while not there():
        assert time.monotonic() < until
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)
