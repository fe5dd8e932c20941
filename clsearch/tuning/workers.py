"""Work beside the search, in Ray's workers: with a trial's resources, side by side, on any node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import torch

from clsearch.tuning.plan import Plan


def side_by_side(
    plan: Plan, function: Callable[..., Any], jobs: Sequence[Sequence[Any]], returns: int = 1
) -> Iterator[tuple[int, Any]]:
    """Run function(cpus, *job) for each job, at most `max_concurrent` at a time; gives (index of the job, reference to
    its result, or a list of references where `returns` > 1) as they end.

    Raises what a job raised, when its result is fetched.
    """
    options = plan.options
    remote = ray.remote(num_cpus=options.cpus_per_trial, num_gpus=options.gpus_per_trial, num_returns=returns)(function)
    waiting, running = list(enumerate(jobs)), dict[Any, tuple[int, Any]]()
    try:
        while waiting or running:
            while waiting and len(running) < (options.max_concurrent or len(jobs)):
                index, job = waiting.pop(0)
                found = remote.remote(options.cpus_per_trial, *job)
                running[found if returns == 1 else found[0]] = (index, found)
            (done,), _ = ray.wait(list(running))
            yield running.pop(done)
    finally:
        for left in running:  # interrupted: nobody waits for them
            ray.cancel(left)


def slots(plan: Plan) -> int:
    """How many trials the cluster holds at a time, with what is there now, whoever uses it."""
    options = plan.options
    needed = {"CPU": options.cpus_per_trial, "GPU": options.gpus_per_trial}
    held = [
        min(int(node["Resources"].get(name, 0) / count + 1e-9) for name, count in needed.items() if count)
        for node in ray.nodes()
        if node["Alive"]
    ]
    return min(sum(held), options.max_concurrent or sum(held))


def with_threads(cpus: int) -> None:
    """A worker computes with the cores that it was given."""
    torch.set_num_threads(max(1, cpus))
