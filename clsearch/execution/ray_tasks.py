"""Run work outside the search in Ray's workers: with a trial's resources, several jobs at a time, on any node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import ray
import torch

from clsearch.common.errors import ConfigError, Refusal
from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Data
from clsearch.execution.resources import (
    WorkerResources,
    is_out_of_memory,
    memory_advice,
)
from clsearch.methods.base import Method
from clsearch.methods.registry import CUSTOM_METHODS, accept
from clsearch.planning.plan import Plan
from clsearch.ray_runtime.liveness import what_died
from clsearch.ray_runtime.supervision import supervised
from clsearch.training.loop import DivergedError
from clsearch.training.retraining import References, move_references, retrain

SETTLING_SECONDS = 1.0
"""Minimum wait before a job is cancelled: cancelling one that is being assigned to a worker makes Ray (2.60) abort this
process with "Tried to complete task that was not pending".
"""


def side_by_side(
    plan: Plan, function: Callable[..., Any], jobs: Sequence[Sequence[Any]], returns: int = 1
) -> Iterator[tuple[int, Any]]:
    """Run function(device, *job) for each job, at most `max_concurrent` at a time.

    Yields:
        As jobs end: (index of the job, reference to its result, or a list of references if `returns` > 1). Fetching the
            result raises what the job raised.

    Raises:
        RayDiedError: Ray died.
    """
    options, share = plan.options, WorkerResources(plan.options.cpus_per_trial, plan.options.gpus_per_trial)
    resources = {"num_cpus": share.cpus, "num_gpus": share.gpus, "num_returns": returns}
    remote: Any = ray.remote(_with_share).options(name=function.__name__, **resources)
    waiting, running = list(enumerate(jobs)), dict[Any, tuple[int, Any]]()
    try:
        while waiting or running:
            while waiting and len(running) < (options.max_concurrent or len(jobs)):
                index, job = waiting.pop(0)
                found = supervised(partial(remote.remote, function, share, plan.device, CUSTOM_METHODS, *job))
                running[found if returns == 1 else found[0]] = (index, found)
            (done,), _ = supervised(partial(ray.wait, list(running)))
            yield running.pop(done)
    finally:
        if running and not what_died():  # interrupted: their results are not needed
            _, left = ray.wait(list(running), num_returns=len(running), timeout=SETTLING_SECONDS)
            for unfinished in left:
                ray.cancel(unfinished)


def fetch(reference: ray.ObjectRef) -> Any:
    """Fetch the result of a job. Raises what the job raised, or RayDiedError if Ray died."""
    return supervised(partial(ray.get, reference))


def store_object(value: Any) -> ray.ObjectRef:
    """Put a value into the object store. Raises RayDiedError if Ray died."""
    return supervised(partial(ray.put, value))


def unlearning_references(
    plan: Plan, seeds: Sequence[int], data: ray.ObjectRef, say: Callable[[str], None]
) -> ray.ObjectRef | None:
    """Train the models that unlearning is measured against on these seeds, and return a reference to them.

    Args:
        plan: The study.
        seeds: One member is trained per seed.
        data: The training data of the plan's benchmark.
        say: Called with a description of the current step.

    Returns:
        A reference in the object store; None if the plan requests no unlearning.

    Raises:
        ConfigError: Training diverges.
    """
    if not plan.config.requests:
        return None
    say("training models that never see the unlearned tasks, to measure against")
    ((_, found),) = side_by_side(plan, _retrained, [(plan.config, seeds, data)])
    try:
        fetch(found)
    except ray.exceptions.RayTaskError as error:
        if not isinstance(error.cause, DivergedError):
            raise
        rule = "unlearn: a model that never sees the unlearned tasks must train without diverging"
        text = f"{rule}; got: {error.cause}. Try a smaller learning rate"
        raise ConfigError([Refusal("references-converge", text)]) from None
    return found


def _retrained(device: torch.device, config: TrialConfig, seeds: Sequence[int], data: Data) -> References:
    """Run `retrain` in a worker; return tensors on the CPU, so that any worker can load them."""
    return move_references(retrain(config, seeds, device, data), "cpu")


def _with_share(
    function: Callable[..., Any], share: WorkerResources, kind: str, own: Mapping[str, Method], *job: Any
) -> Any:
    """Run a job in its worker. Raises RuntimeError with advice if the worker runs out of memory."""
    accept(own)
    try:
        return function(share.apply(kind), *job)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RuntimeError(memory_advice(kind, share.gpus)) from error


def slots(plan: Plan) -> int:
    """Count the trials that the cluster holds at a time, including resources that are in use now."""
    options = plan.options
    needed = {"CPU": options.cpus_per_trial, "GPU": options.gpus_per_trial}
    held = [
        min(int(node["Resources"].get(name, 0) / count + 1e-9) for name, count in needed.items() if count)
        for node in ray.nodes()
        if node["Alive"]
    ]
    return min(sum(held), options.max_concurrent or sum(held))
