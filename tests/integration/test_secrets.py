"""No secret of the environment and no password reaches what a study writes, prints or sends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mlflow.tracking import MlflowClient

from tests.integration.servers import Served

ROOT = Path(__file__).parents[2]
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-in-the-environment",
    "MLFLOW_TRACKING_TOKEN": "planted-as-a-token",
    "MY_PASSWORD": "planted-by-the-user",
}
PASSWORD = "planted-in-the-address"


def test_planted_secrets_are_nowhere(tmp_path: Path, own_server: Served) -> None:
    uri, _ = own_server
    results = tmp_path / "results"
    words = [sys.executable, "studies/lwf_temperature_sweep.py", "--results", str(results), "--trials", "2"]
    words += ["--seeds", "2", "--epochs", "1", "--hidden", "16", "--report-seeds", "2"]
    words += ["--max-concurrent", "1", "--tracking-uri", uri.replace("http://", f"http://bob:{PASSWORD}@")]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    done = subprocess.run(
        words, cwd=ROOT, env=inherited | SECRETS, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("lwf_temperature_sweep")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 6  # it did reach the server
    kept = [path for folder in (results, tmp_path / "served") for path in folder.rglob("*") if path.is_file()]
    kept += [tmp_path / "server.db", tmp_path / "server.log"]
    assert {"study.json", "optuna.journal", "best.json", "final.json"} <= {path.name for path in kept}
    for secret in (*SECRETS.values(), PASSWORD):
        assert secret not in said
        assert [path for path in kept if secret.encode() in path.read_bytes()] == []
