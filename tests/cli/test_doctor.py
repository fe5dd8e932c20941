"""`clsearch doctor`: its checks and remedies."""

import os
import subprocess
import sys

import pytest

from clsearch.cli import doctor
from clsearch.cli.doctor import (
    check_data,
    check_mlflow,
    check_packages,
    check_ray,
    check_results,
    check_space,
    check_token,
)
from clsearch.cli.main import main
from clsearch.data.datasets import SOURCES
from tests.builders import closed_port


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
def test_nothing_is_wrong_where_the_tests_run(tmp_path, capsys):
    assert main(["doctor", "--results", str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    for text in ("torch", "CPU", "GPU", "Ray", "MLflow", "results", "disk", "All checks passed."):
        assert text in said
    assert not (tmp_path / "new").exists()


def test_every_package_that_is_asked_for_is_looked_at():
    found = list(check_packages())
    assert {"ray", "torch", "torchvision", "optuna", "pandas", "mlflow", "pydantic"} <= {f.what for f in found}
    assert {f.remedy for f in found} == {""}


def test_a_package_that_is_old_or_missing_has_the_command_that_mends_it(monkeypatch):
    wanted = ["torch>=99", "ray[default,tune]>=2", "nonesuch>=1", "other; extra == 'dev'"]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    old, good, missing = check_packages()
    assert (old.what, old.remedy) == ("torch", "pip install 'torch>=99'")
    assert good.remedy == ""
    assert (missing.found, missing.remedy) == ("not installed", "pip install 'nonesuch>=1'")


def test_a_data_set_of_which_a_part_is_missing_is_a_problem(tmp_path):
    (digits,) = check_data(None)
    assert digits.remedy == ""
    assert list(check_data(tmp_path)) == []
    mnist = SOURCES["mnist"]
    for name in mnist.files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (part,) = check_data(tmp_path)
    assert part.what == "data: mnist"
    assert part.found == f"incomplete: {', '.join(mnist.test_files)}"
    assert part.remedy.endswith("--download")
    for name in mnist.test_files:
        (tmp_path / name).touch()
    (whole,) = check_data(tmp_path)
    assert (whole.found, whole.remedy) == ("complete", "")
    (absent,) = check_data(tmp_path / "none")
    assert absent.remedy.startswith("create it")


def test_a_store_that_does_not_answer_is_a_problem_and_no_password_is_shown():
    assert check_mlflow(None).remedy == ""
    with closed_port() as port:
        found = check_mlflow(f"http://bob:secret@127.0.0.1:{port}")
    assert "must be an MLflow server that answers" in found.found
    assert found.remedy.startswith("start the server")
    assert "secret" not in found.found


def test_a_cluster_that_cannot_be_joined_is_a_problem(monkeypatch):
    with closed_port() as port:
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            monkeypatch.setenv("RAY_ADDRESS", address)
            (found,) = check_ray()
            assert found.found.startswith("ray_address: must be")
            assert address in found.found
            assert "RAY_ADDRESS" in found.remedy


@pytest.mark.slow
@pytest.mark.parametrize("local", ["auto", "local"])
def test_a_cluster_that_answers_is_none(monkeypatch, ray_session, local):
    for address in (ray_session, local):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert [found.remedy for found in check_ray()] == [""]


def test_results_that_cannot_be_written_are_a_problem(tmp_path):
    (tmp_path / "file").touch()
    assert "must be a writable folder" in check_results(tmp_path / "file" / "sub").found
    assert check_results(tmp_path / "new").remedy == ""
    assert not (tmp_path / "new").exists()


def test_little_space_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("CLSEARCH_CACHE", str(tmp_path / "cache"))
    assert [f.remedy for f in check_space(tmp_path / "new")] == ["", ""]
    monkeypatch.setattr(doctor, "LOW_SPACE", 2**80)
    assert all(f.remedy.startswith("free some space") for f in check_space(tmp_path / "new"))


@pytest.mark.slow
def test_problems_are_the_exit_code_of_a_process_of_its_own_as_a_ray_that_does_not_start(tmp_path):
    (tmp_path / "file").touch()
    words = [sys.executable, "-m", "clsearch", "doctor", "--results", str(tmp_path / "file" / "sub")]
    environment = {**os.environ, "RAY_TMPDIR": "/proc"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 1
    assert "2 problems found." in done.stdout
    assert "Ray could not start" in " ".join(done.stdout.split())


def test_a_token_that_others_can_read_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "auth_token"))
    assert list(check_token()) == []
    (tmp_path / "auth_token").write_text("x")
    for mode, remedy in ((0o644, f"chmod 600 {tmp_path}/auth_token"), (0o640, "chmod 600"), (0o600, "")):
        (tmp_path / "auth_token").chmod(mode)
        (found,) = check_token()
        assert found.remedy.startswith(remedy)
        assert bool(found.remedy) == bool(remedy)
