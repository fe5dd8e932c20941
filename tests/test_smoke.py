"""What an installed package must be able to do. Nothing here reads files of a checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import clsearch
from clsearch import ConfigError, LogRange, Study

pytestmark = pytest.mark.smoke


def small(results: Path, **settings: object) -> Study:
    """One trial of two tasks, with a final evaluation."""
    few = {"epochs": 1, "tasks": 2, "hidden": (8,), "seeds": 2, "report_seeds": 2, "trials": 1, "max_concurrent": 1}
    space = {"distillation_factor": LogRange(0.1, 10)}
    return Study(algorithm="lwf", name="smoke", results=results, space=space, **few | settings)


def test_every_public_name_is_there() -> None:
    assert all(hasattr(clsearch, name) for name in clsearch.__all__)
    assert clsearch.__version__[0].isdigit()


def test_a_study_that_cannot_be_is_refused_with_field_rule_and_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^tasks: each task needs 2 .* at most 5 tasks; got 6$"):
        small(tmp_path, tasks=6)


def test_a_trial_learns_two_tasks_and_measures_them(tmp_path: Path) -> None:
    from clsearch.trainables import LwFTrainable

    settings = {"epochs": 4, "tasks": 2, "classes_per_task": (3, 2), "hidden": (16,), "learning_rate": 0.2}
    first, last = (result := LwFTrainable(config=settings | {"seeds": [0, 1]})).train(), result.train()
    assert (first["tasks_learned"], last["tasks_learned"], last["done"]) == (1, 2, True)
    assert first["accuracy/task_01"] > 0.8
    R = last["record"]["accuracy"]  # R[m][i][j]: of seed m on task j + 1 after task i
    by_hand = sum(sum(R[m][2]) / 2 for m in (0, 1)) / 2
    assert last["average_accuracy"] == pytest.approx(by_hand)


@pytest.mark.slow
def test_the_commands_are_there_and_the_machine_is_fit_for_them(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clsearch", "doctor", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(name in done.stdout for name in ("Ray", "torch", "MLflow"))


@pytest.mark.slow
def test_a_study_runs_and_leaves_its_record_and_report(tmp_path: Path) -> None:
    """In a Ray of its own, in a process of its own, as a user's script."""
    script = tmp_path / "study.py"
    script.write_text(
        "from clsearch import LogRange, Study\n"
        "study = Study(algorithm='lwf', space={'distillation_factor': LogRange(0.1, 10)}, epochs=1, tasks=2,\n"
        "              hidden=(8,), seeds=2, report_seeds=2, trials=1, max_concurrent=1, name='smoke')\n"
        "if __name__ == '__main__':\n"
        "    study.main()\n"
    )
    command = [sys.executable, str(script), "--results", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "results" / "smoke"
    assert 0 <= json.loads((folder / "best.json").read_text())["metrics"]["average_accuracy"] <= 1
    assert len(json.loads((folder / "final.json").read_text())["rows"]) == 2
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")
