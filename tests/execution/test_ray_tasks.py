"""Ray's workers: during a search, and with jobs beside it, which result is whose, how many at once, what they raise."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import ray
import torch

from clsearch import LogRange, Study
from clsearch.execution.ray_tasks import side_by_side, slots
from clsearch.execution.resources import WorkerResources, assigned_gpus, choose_gpu, worker_location
from clsearch.planning.plan import Plan

pytestmark = pytest.mark.slow

WAIT = 60.0
"""Seconds that a job waits for another, which a busy machine may start late."""


def plan_of(**settings: object) -> Plan:
    space = {"distillation_factor": LogRange(0.1, 10)}
    return Study(algorithm="lwf", space=space, epochs=1, **settings).plan


def waited_for(path: Path, seconds: float = WAIT) -> bool:
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def results_of(jobs: list, function: object, **settings: object) -> dict:
    return {index: ray.get(result) for index, result in side_by_side(plan_of(**settings), function, jobs)}


def with_its_cpus(device: torch.device, *words: str) -> tuple:
    return torch.get_num_threads(), *words


def spans(device: torch.device, seconds: float) -> tuple[float, float]:
    began = time.time()
    time.sleep(seconds)
    return began, time.time()


def meets(device: torch.device, folder: Path, own: str, other: str, seconds: float) -> bool:
    """Whether another job was there at the same time."""
    (folder / own).touch()
    return waited_for(folder / other, seconds)


def after(device: torch.device, folder: Path, first: str | None, own: str) -> str:
    """Ends after another job."""
    assert first is None or waited_for(folder / first)
    return own


def inverse(device: torch.device, number: int) -> float:
    return 1 / number


def twofold(device: torch.device, word: str) -> tuple[str, bytes]:
    return word, word.encode() * 2


def threads(device: torch.device, asked: int) -> int:
    WorkerResources(asked, 0).apply("cpu")
    return torch.get_num_threads()


def test_every_result_comes_with_the_index_of_its_job(ray_session: str) -> None:
    jobs = [("a",), ("b", "c"), ("d",), ()]
    found = results_of(jobs, with_its_cpus)
    assert found == {0: (1, "a"), 1: (1, "b", "c"), 2: (1, "d"), 3: (1,)}


def test_a_job_is_told_the_cores_that_a_trial_has(ray_session: str) -> None:
    assert results_of([("a",)], with_its_cpus, cpus_per_trial=2) == {0: (2, "a")}


def test_no_jobs_have_no_results(ray_session: str) -> None:
    assert results_of([], with_its_cpus) == {}


def test_data_in_the_object_store_reaches_a_job_as_itself(ray_session: str) -> None:
    assert results_of([(ray.put("stored"),)], with_its_cpus) == {0: (1, "stored")}


def test_at_most_max_concurrent_jobs_run_at_once(ray_session: str) -> None:
    """On two cores, which would hold two of them."""
    found = results_of([(0.1,)] * 4, spans, max_concurrent=1)
    times = sorted(found.values())
    assert len(times) == 4
    assert all(end <= begin for (_, end), (begin, _) in pairwise(times))


def test_jobs_run_side_by_side_where_nothing_holds_them_back(ray_session: str, tmp_path: Path) -> None:
    jobs = [(tmp_path, "a", "b", WAIT), (tmp_path, "b", "a", WAIT)]
    assert results_of(jobs, meets) == {0: True, 1: True}
    both = [(tmp_path, "c", "d", WAIT), (tmp_path, "d", "c", WAIT), (tmp_path, "e", "a", WAIT)]
    assert results_of(both, meets, max_concurrent=2) == {0: True, 1: True, 2: True}


def test_a_job_that_needs_all_cores_is_alone(ray_session: str) -> None:
    found = results_of([(0.1,)] * 3, spans, cpus_per_trial=2)
    times = sorted(found.values())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(times))


def test_results_come_as_jobs_end(ray_session: str, tmp_path: Path) -> None:
    jobs = [(tmp_path, "second", "first"), (tmp_path, None, "second")]
    order = []
    for index, result in side_by_side(plan_of(), after, jobs):
        order.append(index)
        (tmp_path / ray.get(result)).touch()
    assert order == [1, 0]


def test_nothing_starts_before_its_turn(ray_session: str, tmp_path: Path) -> None:
    """One at a time: the second job starts when the first one's result was taken, and asked for the next."""
    jobs = [(tmp_path, "a", "a", WAIT), (tmp_path, "b", "b", WAIT)]
    going = side_by_side(plan_of(max_concurrent=1), meets, jobs)
    index, result = next(going)
    assert (index, ray.get(result)) == (0, True)
    assert not (tmp_path / "b").exists()
    assert [index for index, _ in going] == [1]
    assert (tmp_path / "b").exists()


def test_what_a_job_raises_surfaces_where_its_result_is_fetched_and_the_others_go_on(ray_session: str) -> None:
    found, raised = {}, []
    for index, result in side_by_side(plan_of(), inverse, [(2,), (0,), (4,)]):
        try:
            found[index] = ray.get(result)
        except ZeroDivisionError:
            raised.append(index)
    assert found == {0: 0.5, 2: 0.25}
    assert raised == [1]


def test_several_results_of_a_job_can_be_fetched_apart(ray_session: str) -> None:
    found = dict(side_by_side(plan_of(), twofold, [("ab",), ("c",)], returns=2))
    assert {index: len(references) for index, references in found.items()} == {0: 2, 1: 2}
    assert {index: ray.get(first) for index, (first, _) in found.items()} == {0: "ab", 1: "c"}
    assert ray.get(found[0][1]) == b"abab"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 2),
        ({"cpus_per_trial": 2}, 1),
        ({"cpus_per_trial": 3}, 0),
        ({"gpus_per_trial": 0.5}, 2),
        ({"gpus_per_trial": 3}, 1),
        ({"gpus_per_trial": 5}, 0),
        ({"max_concurrent": 1}, 1),
        ({"max_concurrent": 5}, 2),
    ],
)
def test_as_many_trials_fit_as_the_nodes_hold(ray_session: str, settings: dict[str, float], expected: int) -> None:
    assert slots(plan_of(**settings)) == expected


@pytest.mark.parametrize(("asked", "expected"), [(1, 1), (2, 2), (0, 1)])
def test_a_worker_computes_with_its_cores_and_at_least_one(ray_session: str, asked: int, expected: int) -> None:
    assert results_of([(asked,)], threads) == {0: expected}


def gpus(device: torch.device, folder: Path, own: str, other: str) -> tuple[list[str], str | None, str, str]:
    """What a job that runs beside another is given: its GPUs, those that torch would see, the device, the place."""
    meets(device, folder, own, other, WAIT)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return assigned_gpus(), visible, str(choose_gpu(assigned_gpus(), visible)), worker_location()


@pytest.mark.parametrize(("share", "same"), [(1, False), (0.5, True)])
def test_a_job_computes_on_the_gpu_that_ray_gave_it(ray_session: str, tmp_path: Path, share, same) -> None:
    jobs = [(tmp_path, "a", "b"), (tmp_path, "b", "a")]
    found = results_of(jobs, gpus, gpus_per_trial=share, device="cpu")
    for given, visible, device, where in found.values():
        (own,) = given
        assert (visible, device) == (own, "cuda:0")
        assert where.endswith(f", GPU {own}")
    assert (found[0][0] == found[1][0]) is same


def test_without_a_share_of_a_gpu_a_job_has_none(ray_session: str, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    ((given, _, _, where),) = results_of([(tmp_path, "own", "there")], gpus).values()
    assert given == []
    assert "GPU" not in where


def greedy(device: torch.device) -> None:
    torch.empty(2**50)


def test_a_job_that_does_not_fit_into_memory_says_what_to_do(ray_session: str) -> None:
    with pytest.raises(RuntimeError, match="--batch-size"):
        results_of([()], greedy)


@pytest.mark.slow
def test_trials_that_are_shorter_than_a_workers_start_run_in_every_worker(ray_session: str, tmp_path: Path) -> None:
    """Ray Tune ends the start of a worker whose trial another one takes over: a second might never come to be."""

    def noted(shape: tuple[int, ...]) -> torch.nn.Module:
        (tmp_path / f"{os.getpid()}-{uuid.uuid4()}").touch()  # once a trial
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))

    study = Study(
        algorithm="lwf",
        space={"distillation_factor": LogRange(0.1, 10)},
        name="short",
        results=tmp_path / "results",
        backbone=noted,
        tasks=2,
        epochs=8,
        seeds=1,
        trials=16,
        sampler="random",
        references=(),
        final=False,
    )
    assert len(study.run().trials) == 16
    made = Counter(int(path.name.partition("-")[0]) for path in tmp_path.glob("*-*"))
    del made[os.getpid()]  # what the driver looked at before the search
    trained = sorted(made.values())  # a few times a trial
    assert trained[-1] <= 0.75 * sum(trained)
