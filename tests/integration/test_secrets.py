"""No secret of the environment and no password reaches what a study writes, prints or sends."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mlflow.tracking import MlflowClient

from tests.integration.servers import Served

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-in-the-environment",
    "MLFLOW_TRACKING_TOKEN": "planted-as-a-token",
    "MY_PASSWORD": "planted-by-the-user",
}
PASSWORD = "planted-in-the-address"


def test_a_password_in_an_address_is_nowhere(tmp_path: Path, own_server: Served, run_here, monkeypatch) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    uri, _ = own_server
    results = tmp_path / "results"
    words = ["--results", str(results), "--trials", "2", "--seeds", "2", "--epochs", "1", "--hidden", "16"]
    words += ["--report-seeds", "2", "--tracking-uri", uri.replace("http://", f"http://bob:{PASSWORD}@")]
    done = run_here("studies/lwf_temperature_sweep.py", *words)
    assert done.returncode == 0, done.stderr
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")  # with which this process would sign in, too
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("lwf_temperature_sweep")
    assert len(client.search_runs([experiment.experiment_id])) == 6  # it did reach the server
    kept = [path for folder in (results, tmp_path / "served") for path in folder.rglob("*") if path.is_file()]
    assert_nowhere((*SECRETS.values(), PASSWORD), done.stdout + done.stderr, [*kept, *tmp_path.glob("server.*")])


def assert_nowhere(secrets: Iterable[str], said: str, kept: list[Path]) -> None:
    """Of a whole study: neither in what it printed nor in a file."""
    assert {"study.json", "optuna.journal", "best.json", "final.json"} <= {path.name for path in kept}
    for secret in secrets:
        assert secret not in said
        assert [path for path in kept if secret.encode() in path.read_bytes()] == []
