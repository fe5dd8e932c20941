"""The device of a worker, and the advice when its memory does not suffice."""

import pytest
import ray
import torch

from clsearch.execution.resources import (
    WorkerResources,
    choose_gpu,
    is_out_of_memory,
    memory_advice,
    node_name,
    worker_location,
)


@pytest.mark.parametrize(
    ("given", "visible", "index"),
    [
        (["2"], "2", 0),  # as Ray sets it: the given ones are all that is visible
        (["1", "3"], "1,3", 0),
        (["3"], "0,1,2,3", 3),  # Ray was told not to set it
        (["3"], "2,3", 1),  # the node was started with two of four
        (["GPU-5e1f"], "GPU-a0b1,GPU-5e1f", 1),
        (["2"], None, 2),
        (["2"], "", 2),
        ([], None, 0),  # outside Ray
        ([], "4", 0),
        (["GPU-5e1f"], None, 0),
    ],
)
def test_the_device_is_the_gpu_that_ray_gave_as_torch_counts_the_visible_ones(given, visible, index) -> None:
    assert choose_gpu(given, visible) == torch.device("cuda", index)


@pytest.mark.parametrize("gpus", [0, 0.25, 1])
def test_a_trial_on_the_cpu_stays_there_whatever_gpus_it_holds(gpus) -> None:
    before = torch.get_num_threads()
    try:
        assert WorkerResources(2, gpus).apply("cpu") == torch.device("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def too_much() -> Exception:
    try:
        torch.empty(2**50)
    except RuntimeError as error:
        return error
    raise AssertionError("a petabyte of floats fitted")


@pytest.mark.parametrize(
    "error",
    [too_much(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_does_not_suffice_is_recognised(error) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("memory")])
def test_other_errors_are_not_taken_for_it(error) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("kind", "gpus", "named", "unnamed"),
    [
        ("cuda", 0.25, ("--gpus-per-trial, now 0.25", "--batch-size", "--seeds"), ("--max-concurrent",)),
        ("cuda", 1, ("--batch-size", "--seeds"), ("--gpus-per-trial", "--max-concurrent")),
        ("cpu", 0, ("--max-concurrent", "--batch-size", "--seeds"), ("--gpus-per-trial",)),
    ],
)
def test_the_remedy_names_the_options_that_help(kind, gpus, named, unnamed) -> None:
    said = memory_advice(kind, gpus)
    assert all(word in said for word in named)
    assert not any(word in said for word in unnamed)


def test_a_node_goes_by_the_name_that_it_was_given_or_its_hosts() -> None:
    node = {"NodeManagerAddress": "10.0.0.7", "NodeManagerHostname": "gpu-box"}
    assert node_name(node | {"NodeName": "rack-2"}) == "rack-2"
    assert node_name(node | {"NodeName": "10.0.0.7"}) == node_name(node) == "gpu-box"


@pytest.mark.slow  # starts Ray
def test_a_worker_says_on_which_node_it_is(ray_session: str) -> None:
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    assert ray.get(ray.remote(num_cpus=0)(worker_location).remote()) == node_name(node)
