"""Trials that run out of memory, and trials that share a GPU."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from clsearch import LogRange, Study
from clsearch.records.trials import read_trials

ROOT = Path(__file__).parents[2]

SPACE = {"distillation_factor": LogRange(0.1, 10)}
TINY = {"algorithm": "lwf", "space": SPACE, "epochs": 1, "seeds": 2, "final": False}


class Greedy(torch.nn.Module):
    """Wants more memory than there is in the first worker that trains it on as many images as the study does."""

    def __init__(self, width: int, taken: Path) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(width, 4)
        self.taken = taken

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and "default_worker.py" in sys.argv[0] and not self.taken.exists():
            self.taken.touch()
            torch.empty(2**50)
        return self.linear(images.flatten(1))


def test_a_trial_that_does_not_fit_into_memory_fails_and_the_others_say_which_gpu_they_share(
    ray_session: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def backbone(shape: tuple[int, int, int]) -> torch.nn.Module:
        return Greedy(math.prod(shape), tmp_path / "taken")

    settings = TINY | {"references": (), "max_concurrent": 1, "gpus_per_trial": 0.5, "device": "cpu"}
    assert Study(**settings, name="greedy", results=results, trials=3, backbone=backbone).run().exit_code == 0
    table = pd.read_csv(results / "greedy" / "trials.csv")
    assert all(", GPU " in place and place[-1] in "0123" for place in table.place[1:])
    assert list(table.state) == ["failed", "finished", "finished"]
    reason = "out of memory on its node: use fewer trials at a time (--max-concurrent), a smaller --batch-size"
    assert table.reason[0].startswith(reason)
    assert reason in " ".join(capsys.readouterr().out.split())
    storage = JournalStorage(JournalFileBackend(str(results / "greedy" / "optuna.journal")))
    trials = optuna.load_study(study_name="greedy", storage=storage).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert {record.restarts for record in read_trials(results / "greedy").values()} == {0}


@pytest.mark.system
def test_a_worker_that_the_nodes_memory_costs_says_so(tmp_path: Path) -> None:
    """Ray kills workers when a node's memory is nearly full, which it is here from the first byte."""
    study = f"Study(algorithm='lwf', space={{}}, trials=1, references=(), epochs=1, results={str(tmp_path)!r})"
    script = f"from clsearch import Study\nStudy.main({study}, ['--max-failures', '0', '--no-final'])"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    full = {"RAY_memory_usage_threshold": "0.0001", "RAY_memory_monitor_refresh_ms": "50"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=inherited | full, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert "1 of 1 trials failed. The first reason: out of memory on its node: use fewer trials" in " ".join(
        done.stdout.split()
    )
    assert "Traceback" not in done.stderr
    assert "low on memory" in (tmp_path / "study" / "trials" / "trial_00000" / "error.txt").read_text()
