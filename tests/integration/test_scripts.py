"""The study scripts as a newcomer runs them: processes of their own, their own Ray."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.integration.test_secrets import SECRETS, assert_nowhere

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]


def run_script(script: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script from the root of the checkout, away from any Ray of the tests."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    return subprocess.run(
        [sys.executable, script, *args],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    results = tmp_path_factory.mktemp("script")
    args = ["--trials", "2", "--seeds", "2", "--epochs", "1", "--hidden", "16", "--report-seeds", "2"]
    args += ["--max-concurrent", "1", "--results", str(results)]
    return results, run_script("studies/lwf_temperature_sweep.py", *args, **SECRETS)


def test_secrets_of_the_environment_are_nowhere(first) -> None:
    results, done = first
    kept = [path for path in results.rglob("*") if path.is_file()]
    assert "mlflow.db" in {path.name for path in kept}
    assert_nowhere(SECRETS.values(), done.stdout + done.stderr, kept)


def test_a_script_ends_with_the_answer_and_where_it_is(first) -> None:
    results, done = first
    assert done.returncode == 0, done.stderr
    for text in (
        "Best configuration",
        "finetuning",
        "not shown",
        "Accuracy (%) of the best",
        "mlflow server",
        "Retrain",
    ):
        assert text in done.stdout
    for text in ("Final evaluation on 2 fresh seeds", "Optimism: ", "had not been opened before"):
        assert done.stdout.count(text) == 1
    assert f"--backend-store-uri sqlite:///{results}/mlflow.db" in done.stdout
    assert len(pd.read_csv(results / "lwf_temperature_sweep" / "trials.csv")) == 2


def test_progress_is_plain_lines_where_there_is_no_terminal_and_others_are_silent(first) -> None:
    _, done = first
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert any(line.startswith("2/2 trials") for line in lines)
    known = (
        "checking that each",
        "starting Ray",
        "results go to",
        "writing results",
        "writing the report",
        "sending the last records",
    )
    known += ("opening the test data of split-digits", "final evaluation on 2 fresh seeds")
    assert [line for line in lines if not line.startswith(known) and " trials · " not in line] == []


def test_another_study_of_that_name_is_refused_and_changes_nothing(first) -> None:
    results, _ = first
    before = {p: p.stat().st_mtime_ns for p in (results / "lwf_temperature_sweep").rglob("*")}
    again = run_script("studies/lwf_temperature_sweep.py", "--results", str(results))
    assert again.returncode == 2
    assert "error: epochs: must be 1, as in the study in " in again.stderr
    assert "--name lwf_temperature_sweep-2" in again.stderr
    assert "checking" not in again.stderr
    assert "Traceback" not in again.stderr
    assert before == {p: p.stat().st_mtime_ns for p in (results / "lwf_temperature_sweep").rglob("*")}


def test_the_ewc_script_studies_permuted_digits_domain_incremental_by_default(run_here, results: Path) -> None:
    args = ["--trials", "1", "--seeds", "1", "--iterations", "2", "--no-final", "--results", str(results)]
    done = run_here("studies/ewc_penalty_sweep.py", *args)
    assert done.returncode == 0, done.stderr
    config = json.loads((results / "ewc_penalty_sweep" / "study.json").read_text())["config"]
    assert (config["benchmark"], config["scenario"]) == ("permuted-digits", "domain")
    assert "One seed has no interval" in done.stdout


def test_a_preset_and_references_from_the_command_line_reach_the_records(run_here, results: Path) -> None:
    args = ["--preset", "clarena-first", "--references", "joint", "finetuning", "--fisher-scale", "none"]
    args += ["--trials", "1", "--seeds", "2", "--tasks", "2", "--epochs", "1", "--hidden", "16", "--no-final"]
    done = run_here("studies/lwf_ewc_together.py", *args, "--results", str(results))
    assert done.returncode == 0, done.stderr
    folder = results / "lwf_ewc_together"
    study = json.loads((folder / "study.json").read_text())
    assert [study["config"][name] for name in ("fisher", "fisher_scale", "average_over_tasks", "teachers")] == [
        "batch",
        "none",
        True,
        "per_task",
    ]
    assert study["space"]["penalty_factor"] == {"low": 3, "high": 3e6, "log": True}  # 32 samples a batch
    assert {"--preset", "clarena-first", "--references"} <= set(study["command"])
    assert list(pd.read_csv(folder / "references.csv").algorithm) == ["joint", "finetuning"]
    assert "intransigence" in pd.read_csv(folder / "trials.csv")
    assert re.findall(r"^Against (\w+):", done.stdout, re.MULTILINE) == ["joint", "finetuning"]
    assert "sigence" in done.stdout
    (again,) = re.findall(r"^Retrain +(.*)", done.stdout, re.MULTILINE)
    assert "--preset clarena-first" in again


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (
            ["--scenario", "class", "--references", "independent"],
            "error: scenario: must be task or domain for independent networks",
        ),
        (["--penalty-factor", "1e-30", "1e-29"], "error: penalty_factor: must act: "),
    ],
)
def test_what_is_refused_exits_with_2_and_nothing_is_started(tmp_path: Path, args: list[str], problem: str) -> None:
    done = run_script("studies/lwf_ewc_together.py", *args, "--results", str(tmp_path / "out"))
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert "starting Ray" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "out"])
