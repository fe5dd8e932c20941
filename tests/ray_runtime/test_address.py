"""Which Ray a study runs in, and what a job may not write to."""

from pathlib import Path

import pytest

from clsearch.common.errors import ConfigError
from clsearch.ray_runtime import address as addresses
from clsearch.ray_runtime.address import (
    JOB,
    address_problem,
    check_address,
    check_outlives_job,
    cluster_address,
    host_and_port,
)
from tests.builders import EMPTY_SETTINGS, closed_port, plan_of, silent_port, talking_port


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(JOB, raising=False)


@pytest.mark.parametrize(
    ("option", "variable", "expected"),
    [
        (None, None, None),
        (None, "", None),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("auto", "10.0.0.1:6379", "auto"),
        ("10.0.0.2:6379", None, "10.0.0.2:6379"),
        ("local", "10.0.0.1:6379", None),
        (None, "local", None),
    ],
)
def test_the_option_goes_before_the_variable_and_local_is_a_ray_of_its_own(
    tmp_path, monkeypatch, option, variable, expected
):
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert cluster_address(plan_of(tmp_path, ray_address=option)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("head:7000", ("head", 7000)),
        ("head", ("head", 6379)),
        ("[::1]:7000", ("::1", 7000)),
        ("head:", None),
        (":7000", None),
        ("head:70000", None),
        ("head:port", None),
        ("", None),
    ],
)
def test_an_address_is_a_host_and_a_port(text, expected):
    assert host_and_port(text) == expected


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("ray://head:10001", "http://head:8265"),
        ("http://head:8265", "http://head:8265"),
        ("https://ray.example.org", "https://ray.example.org"),
    ],
)
def test_from_outside_a_cluster_the_way_is_a_job(address, server):
    problem = address_problem(address)
    assert problem.startswith("ray_address: must be auto, local or HOST:PORT")
    assert f"got {address}." in problem
    assert f"ray job submit --address {server} --working-dir ." in problem


def test_what_is_no_address_is_refused_as_it_is():
    assert address_problem("head:port").endswith("of a cluster's head; got head:port")


def test_a_cluster_must_answer_as_ray_does(tmp_path, monkeypatch):
    monkeypatch.setattr(addresses, "connected", lambda: False)
    monkeypatch.setattr(addresses, "PROBE_SECONDS", 0.2)
    with talking_port(EMPTY_SETTINGS) as port:
        check_address(plan_of(tmp_path, ray_address=f"127.0.0.1:{port}"))
    others = (
        (silent_port(), "no answer within 0.2 s"),
        (talking_port(b"HTTP/1.1 400 Bad"), "is not Ray"),
        (closed_port(), "refused"),
    )
    for other, reason in others:
        with other as port, pytest.raises(ConfigError) as refused:
            check_address(plan_of(tmp_path, ray_address=f"127.0.0.1:{port}"))
        rule = f"ray_address: must be a cluster that answers; got 127.0.0.1:{port} ("
        assert str(refused.value).startswith(rule)
        assert reason in str(refused.value)
    assert address_problem("auto") == ""


SESSION = "/tmp/ray/session_2026-11-21_18-40-18_814233_10650"


@pytest.mark.parametrize(
    "results",
    [
        f"{SESSION}/runtime_resources/working_dir_files/_ray_pkg_bc237ce9bbef24f9/results",
        f"{SESSION}/results",
        "/scratch/session_latest/results",
    ],
)
def test_a_job_does_not_write_into_rays_session(monkeypatch, results):
    plan = plan_of(Path(results))
    check_outlives_job(plan)
    monkeypatch.setenv(JOB, "{}")
    with pytest.raises(ConfigError) as refused:
        check_outlives_job(plan)
    (problem,) = refused.value.problems
    assert problem.startswith("results: must be a folder that outlives the job")
    assert "--results /shared/results" in problem
    assert results in problem


def test_a_relative_path_of_a_job_is_in_its_working_directory(tmp_path, monkeypatch):
    place = tmp_path / "session_2026-11-21_18-40-18_814233_10650" / "working_dir_files" / "_ray_pkg_bc237ce9bbef24f9"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    monkeypatch.setenv(JOB, "{}")
    with pytest.raises(ConfigError, match="outlives"):
        check_outlives_job(plan_of(Path("results")))


@pytest.mark.parametrize("results", ["/shared/results", "/scratch/session_3/results", "/data/ray/results"])
def test_a_job_writes_anywhere_else(monkeypatch, results):
    monkeypatch.setenv(JOB, "{}")
    check_outlives_job(plan_of(Path(results)))
