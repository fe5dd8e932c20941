"""What is refused before Ray starts."""

import re
import shutil

import pytest
import torch

from clsearch import Choice
from clsearch.common.errors import ConfigError
from clsearch.execution import preflight
from clsearch.execution.preflight import Node
from clsearch.execution.search import warn_of_large_cohort
from clsearch.planning.plan import tracking_uri
from clsearch.ray_runtime import address as addresses
from clsearch.tracking.store_check import check_tracking
from tests.builders import EMPTY_SETTINGS, closed_port, http_port, plan_of, silent_port, talking_port, write_images
from tests.helpers import write_mnist


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch):
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for module in (addresses, preflight):
        monkeypatch.setattr(module, "connected", lambda: False)  # though other tests of this process are


def refusal(check, *args):
    """The one problem that a check raises."""
    with pytest.raises(ConfigError) as refused:
        check(*args)
    (problem,) = refused.value.problems
    return problem


def test_a_good_plan_passes_and_creates_no_study(tmp_path):
    plan = plan_of(tmp_path / "out")
    preflight.check(plan)
    assert not plan.folder.exists()


# The study's folder


@pytest.mark.parametrize("below", ["", "sub", "sub/deeper"])
def test_results_at_or_below_a_regular_file_are_refused(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("mine")
    problem = refusal(preflight.check, plan_of(file / below))
    assert re.match(rf"results: must be a writable folder; got {file}", problem)
    assert file.read_text() == "mine"


def test_the_write_check_leaves_nothing(tmp_path):
    preflight.check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    preflight.check_writable(tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


# Configurations together


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trials": 32, "cohort": 4}, ""),
        (
            {"trials": 32, "cohort": 5},
            "cohort: 5 of the 32 trials are suggested at once, so the search learns from fewer ",
        ),
        (
            {"trials": 3, "cohort": 64},
            "cohort: 3 of the 3 trials are suggested at once, so the search learns from fewer ",
        ),
        ({"trials": 32, "cohort": 32, "sampler": "random"}, ""),
        ({"trials": 1, "cohort": 32}, ""),
    ],
)
def test_a_cohort_from_which_the_search_learns_little_is_said(tmp_path, settings, said):
    found = warn_of_large_cohort(plan_of(tmp_path, **settings))
    assert found.startswith(said) if said else not found


# The data


def test_embedded_data_needs_no_root(tmp_path):
    preflight.check_data(plan_of(tmp_path, benchmark="permuted-digits"))


def test_a_benchmark_with_files_needs_a_root(tmp_path):
    problem = refusal(preflight.check, plan_of(tmp_path, benchmark="split-mnist"))
    assert re.match(r"data_root: split-mnist needs the folder of its files; got none.*--data-root", problem)


def test_missing_files_are_named(tmp_path):
    problem = refusal(preflight.check, plan_of(tmp_path, benchmark="split-mnist", data_root=tmp_path))
    assert re.match(r"data_root: must hold MNIST/raw/train-images-idx3-ubyte, .*; got .*--download", problem)
    assert str(tmp_path) in problem


def test_only_the_files_that_are_missing_are_named(tmp_path):
    write_mnist(tmp_path, "train", per_class=1, seed=0)
    (tmp_path / "MNIST/raw/train-labels-idx1-ubyte").unlink()
    problem = refusal(preflight.check_data, plan_of(tmp_path, benchmark="split-mnist", data_root=tmp_path))
    assert "train-labels" in problem
    assert "train-images" not in problem


@pytest.mark.parametrize("settings", [{"final": False}, {"final": False, "download": True}, {"download": True}])
def test_training_files_are_enough_and_are_not_fetched_again(tmp_path, settings):
    """Without a final evaluation, or where its files will be downloaded."""
    write_mnist(tmp_path, "train", per_class=1, seed=0)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*ubyte")}
    preflight.check(plan_of(tmp_path, benchmark="permuted-mnist", data_root=tmp_path, **settings))
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*ubyte")} == before


def test_missing_files_that_will_be_downloaded_pass_and_are_not_fetched_here(tmp_path):
    root = tmp_path / "data"
    preflight.check(plan_of(tmp_path / "out", benchmark="split-mnist", data_root=root, download=True))
    assert not root.exists()


def test_images_of_ones_own_need_no_root_and_are_not_decoded_here(tmp_path, monkeypatch):
    monkeypatch.setenv("CLSEARCH_CACHE", str(tmp_path / "cache"))
    folder = write_images(tmp_path / "pets")
    preflight.check(plan_of(tmp_path / "out", benchmark=f"folder:{folder}"))
    assert not (tmp_path / "cache").exists()


# Test data, which the final evaluation will open and nothing before it

TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.mark.parametrize("missing", [TEST_FILES, TEST_FILES[:1], TEST_FILES[1:]])
def test_test_files_that_are_missing_are_named_with_both_ways_out(tmp_path, missing):
    for part in ("train", "t10k"):
        write_mnist(tmp_path, part, per_class=1, seed=0)
    for name in missing:
        (tmp_path / "MNIST" / "raw" / name).unlink()
    settings = {"benchmark": "split-mnist", "data_root": tmp_path}
    problem = refusal(preflight.check, plan_of(tmp_path, **settings))
    assert problem == (
        f"data_root: must hold {', '.join(f'MNIST/raw/{name}' for name in missing)} for split-mnist; got {tmp_path}. "
        f"Add --download to fetch them into it, or leave the final evaluation out (--no-final)"
    )
    preflight.check(plan_of(tmp_path, download=True, **settings))
    preflight.check(plan_of(tmp_path, final=False, **settings))


def test_no_test_file_is_opened(tmp_path):
    for part in ("train", "t10k"):
        write_mnist(tmp_path, part, per_class=1, seed=0)
    for name in TEST_FILES:
        (tmp_path / "MNIST" / "raw" / name).write_bytes(b"nothing that a reader takes")
    preflight.check(plan_of(tmp_path, benchmark="split-mnist", data_root=tmp_path))


def test_the_benchmark_that_two_phase_reports_on_needs_both_parts(tmp_path):
    settings = {"protocol": "two_phase", "report_benchmark": "split-mnist", "data_root": tmp_path}
    plan = plan_of(tmp_path, **settings)
    problem = refusal(preflight.check, plan)
    assert re.match(r"data_root: must hold MNIST/raw/train-images.* for split-mnist; got .*--download", problem)
    write_mnist(tmp_path, "train", per_class=1, seed=0)
    problem = refusal(preflight.check, plan)
    assert re.match(r"data_root: must hold MNIST/raw/t10k-images.* for split-mnist; got .*--no-final", problem)
    write_mnist(tmp_path, "t10k", per_class=1, seed=0)
    preflight.check(plan)


def test_without_a_final_evaluation_the_other_benchmark_needs_no_file(tmp_path):
    settings = {"protocol": "two_phase", "report_benchmark": "split-mnist", "data_root": tmp_path}
    preflight.check(plan_of(tmp_path, final=False, **settings))


def test_a_reported_benchmark_without_a_root_is_refused(tmp_path):
    problem = refusal(preflight.check, plan_of(tmp_path, protocol="two_phase", report_benchmark="split-mnist"))
    assert re.match(r"data_root: split-mnist needs the folder of its files; got none.*--data-root", problem)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda test: (test / "f" / "000.png").unlink(), "benchmark: every class needs at least 1 image; got 0 in f"),
        (shutil.rmtree, "benchmark: test data must be in test/, next to train/; got no test/ in folder:"),
    ],
    ids=["empty class", "no test"],
)
def test_test_images_that_cannot_be_used_are_refused_with_the_way_out(tmp_path, spoil, problem):
    folder = write_images(tmp_path / "pets" / "train").parent
    test = write_images(folder / "test", count=1, seed=1)
    settings = {"benchmark": f"folder:{folder}"}
    preflight.check(plan_of(tmp_path / "out", **settings))
    spoil(test)
    found = refusal(preflight.check, plan_of(tmp_path / "out", **settings))
    assert found.startswith(problem)
    assert found.endswith(", or leave the final evaluation out (--no-final)")
    preflight.check(plan_of(tmp_path / "out", final=False, **settings))


# The backbone


ROTATED = {"benchmark": "rotated-digits", "scenario": "domain"}


def normed(shape):
    return torch.nn.Sequential(torch.nn.BatchNorm2d(shape[0]), torch.nn.Flatten())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mlp", "cnn", "resnet18"])
def test_backbones_that_have_a_name_pass_and_leave_random_numbers_alone(tmp_path, backbone):
    hidden = None if backbone == "resnet18" else (8,)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    preflight.check_backbone(plan_of(tmp_path, backbone=backbone, hidden=hidden))
    assert torch.equal(torch.get_rng_state(), state)


def test_each_searched_backbone_is_tried(tmp_path):
    preflight.check_backbone(plan_of(tmp_path, hidden=None, space={"backbone": Choice("mlp", "cnn")}))
    problem = refusal(
        preflight.check_backbone, plan_of(tmp_path, hidden=None, space={"backbone": Choice("mlp", normed)})
    )
    assert problem.startswith("backbone: ")


def test_a_backbone_is_tried_on_images_of_the_benchmarks_shape(tmp_path):
    def only(shape):
        assert shape == (3, 32, 32)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4))

    settings = {"backbone": only, "hidden": None}
    preflight.check_backbone(plan_of(tmp_path, benchmark="split-svhn", **settings))
    problem = refusal(preflight.check_backbone, plan_of(tmp_path, **settings))
    assert problem.startswith(
        "backbone: must be made by its factory from (channels, height, width); got AssertionError"
    )


def test_a_backbone_is_tried_on_images_of_the_benchmark_that_is_reported_on_too(tmp_path):
    def small(shape):
        assert shape == (1, 8, 8)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))

    settings = {"backbone": small, "hidden": None, "protocol": "two_phase"}
    preflight.check_backbone(plan_of(tmp_path, report_benchmark="permuted-digits", **(settings | ROTATED)))
    problem = refusal(
        preflight.check_backbone, plan_of(tmp_path, report_benchmark="permuted-mnist", **(settings | ROTATED))
    )
    assert problem.startswith("backbone: must be made by its factory")


def test_a_backbone_that_cannot_be_trained_is_refused(tmp_path):
    problem = refusal(preflight.check, plan_of(tmp_path, backbone=normed, hidden=None))
    assert problem.startswith("backbone: must have no buffers")
    assert problem.endswith("got 0.running_mean, 0.running_var, 0.num_batches_tracked")


# The tracking server


def test_the_named_server_comes_before_the_environments(tmp_path, monkeypatch):
    assert tracking_uri(plan_of(tmp_path)) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert tracking_uri(plan_of(tmp_path)) == "http://environment"
    assert tracking_uri(plan_of(tmp_path, tracking_uri="http://option")) == "http://option"


def test_no_uri_and_a_store_without_a_server_are_not_probed(tmp_path):
    check_tracking(None)
    check_tracking(f"sqlite:///{tmp_path}/x.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_server_that_answers_its_health_passes(slash):
    with http_port(200) as port:
        check_tracking(f"http://127.0.0.1:{port}{slash}")


@pytest.mark.parametrize("status", [404, 401, 500])
def test_a_server_that_is_not_mlflow_is_refused_with_its_status(status):
    with http_port(status) as port:
        problem = refusal(check_tracking, f"http://127.0.0.1:{port}")
    assert problem.startswith(
        f"tracking_uri: must be an MLflow server that answers /health; got http://127.0.0.1:{port}"
    )
    assert f"status {status}" in problem


def test_a_port_that_refuses_is_refused():
    with closed_port() as port:
        problem = refusal(check_tracking, f"http://127.0.0.1:{port}")
    assert re.match(rf"tracking_uri: must be an MLflow server .*; got http://127.0.0.1:{port} \(.*refused", problem)


def test_a_server_that_never_answers_is_refused_after_the_probe(monkeypatch):
    monkeypatch.setattr("clsearch.tracking.store_check.PROBE_SECONDS", 0.3)
    with silent_port() as port:
        problem = refusal(check_tracking, f"http://127.0.0.1:{port}")
    assert re.match(
        rf"tracking_uri: must be an MLflow server .*; got http://127.0.0.1:{port} \(no answer in 0.3 s\)", problem
    )


def test_a_server_from_the_environment_is_probed_too(tmp_path, monkeypatch):
    with closed_port() as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        assert refusal(preflight.check, plan_of(tmp_path)).startswith("tracking_uri: ")


@pytest.mark.parametrize("name", preflight.RESERVED)
def test_a_study_has_no_name_of_what_lies_beside_the_studies(tmp_path, name):
    assert refusal(preflight.check, plan_of(tmp_path, name=name)).startswith("name: must not be one of ")


def test_a_refusal_does_not_show_the_password():
    with closed_port() as port:
        problem = refusal(check_tracking, f"http://bob:secret@127.0.0.1:{port}")
    assert f"127.0.0.1:{port}" in problem
    assert "secret" not in problem
    assert "bob" not in problem


# Device and resources


def test_cuda_needs_a_share_of_a_gpu(tmp_path):
    problem = refusal(preflight.check, plan_of(tmp_path, device="cuda"))
    assert re.match(r"device: cuda needs a share of a GPU .*--gpus-per-trial.*; got 0", problem)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_other_devices_need_none(tmp_path, device):
    preflight.check_device(plan_of(tmp_path, device=device))


@pytest.mark.parametrize(("option", "value"), [("cpus_per_trial", 9999), ("gpus_per_trial", 99)])
def test_more_than_this_machine_has_is_refused(tmp_path, option, value):
    problem = refusal(preflight.check, plan_of(tmp_path, **{option: value}))
    assert re.match(rf"{option}: must be at most what one node has, \d+ \(this machine\); got {value}", problem)


def test_another_machines_resources_are_not_judged_by_this_ones(tmp_path, monkeypatch):
    with talking_port(EMPTY_SETTINGS) as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        preflight.check(plan_of(tmp_path, cpus_per_trial=9999, gpus_per_trial=99, device="cuda"))


@pytest.mark.slow
def test_a_ray_that_the_process_is_in_already_is_judged_by_its_own_nodes(tmp_path, monkeypatch, ray_session):
    monkeypatch.setattr(addresses, "connected", lambda: True)
    monkeypatch.setattr(preflight, "connected", lambda: True)
    preflight.check(plan_of(tmp_path, cpus_per_trial=2, gpus_per_trial=4, device="cuda"))
    problem = refusal(preflight.check, plan_of(tmp_path, cpus_per_trial=2, gpus_per_trial=5, device="cuda"))
    assert re.match(r"gpus_per_trial: must be at most what one node has, 4 \(.+\); got 5", problem)


@pytest.mark.parametrize(
    ("settings", "beginning"),
    [({"ray_address": "ray://head:10001"}, "ray_address: "), ({"mirror": "nowhere://bucket"}, "mirror: ")],
)
def test_addresses_are_looked_at_before_anything_starts(tmp_path, settings, beginning):
    assert refusal(preflight.check, plan_of(tmp_path, **settings)).startswith(beginning)


def test_a_job_does_not_write_into_rays_session(tmp_path, monkeypatch):
    monkeypatch.setenv(addresses.JOB, "{}")
    folder = tmp_path / "session_2026-11-21_18-40-18_814233_10650" / "results"
    assert refusal(preflight.check, plan_of(folder)).startswith("results: must be a folder that outlives the job")


SMALL, WIDE, GRAPHIC = Node("small", 4, 0), Node("wide", 64, 0), Node("graphic", 8, 2)


@pytest.mark.parametrize(
    ("cpus", "gpus", "nodes"),
    [
        (4, 0, [SMALL]),
        (64, 0, [SMALL, WIDE]),
        (8, 2, [SMALL, GRAPHIC]),
        (1, 0.25, [SMALL, GRAPHIC]),
        (1, 1, [GRAPHIC]),
    ],
)
def test_a_trial_fits_where_one_node_holds_all_of_it(tmp_path, cpus, gpus, nodes):
    preflight.check_resources(plan_of(tmp_path, cpus_per_trial=cpus, gpus_per_trial=gpus), nodes)


@pytest.mark.parametrize(
    ("cpus", "gpus", "nodes", "problem"),
    [
        (5, 0, [SMALL], "cpus_per_trial: must be at most what one node has, 4 (small); got 5"),
        (65, 0, [SMALL, WIDE], "cpus_per_trial: must be at most what one node has, 64 (wide); got 65"),
        (
            1,
            1,
            [SMALL, WIDE],
            "gpus_per_trial: must be at most what one node has, 0 (small); got 1. Leave it out to train on the CPU",
        ),
        (1, 3, [SMALL, GRAPHIC], "gpus_per_trial: must be at most what one node has, 2 (graphic); got 3"),
        # 64 cores and a GPU exist, but not on one node.
        (64, 1, [WIDE, GRAPHIC], "cpus_per_trial: must be at most what one node has, 8 (graphic); got 64"),
        (1, 1.5, [GRAPHIC], "gpus_per_trial: must be a whole number above 1 (a fraction shares one); got 1.5"),
    ],
)
def test_a_trial_that_fits_nowhere_is_refused_with_the_largest_node(tmp_path, cpus, gpus, nodes, problem):
    plan = plan_of(tmp_path, cpus_per_trial=cpus, gpus_per_trial=gpus)
    assert refusal(preflight.check_resources, plan, nodes) == problem
