"""The Ray that a study runs in: joined, or started here; checked before anything is trained."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.formatting import last_line
from clsearch.execution import preflight
from clsearch.execution.ray_address import cluster_address
from clsearch.execution.resources import node_name
from clsearch.planning.plan import Plan

NODE_SECONDS = 60.0
"""A node that has not looked at the results folder by then counts as one that does not see it."""


@contextmanager
def ray_session(plan: Plan) -> Iterator[None]:
    """Use the Ray that this process is connected to, join the cluster that the study names, or start one here.

    What was not started here is not shut down here. Raises ConfigError where there is no such cluster, it has no node
    for a trial, or its nodes do not share the results folder.
    """
    joined = ray.is_initialized()
    if not plan.options.verbose:  # what it says of trials that failed is in their error.txt
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if not joined:
        join_or_start(plan)
    try:
        preflight.check_resources(plan, preflight.cluster_nodes())
        nodes = [node for node in ray.nodes() if node["Alive"] and can_hold_trial(plan, node)]
        check_shared(plan.options.results.resolve(), nodes)
        with termination_as_interrupt():
            yield
    finally:
        if not joined:
            ray.shutdown()


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """SIGTERM, which `ray job stop`, Slurm and Kubernetes send before they kill, does what Ctrl-C does, so that what is
    there gets written. Ray would end the process on the spot.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def join_or_start(plan: Plan) -> None:
    """Join the cluster that a plan names, or start a Ray of this machine. Raises ConfigError where that fails."""
    address, verbose = cluster_address(plan), plan.options.verbose
    own: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(logging_level=logging.INFO if verbose else logging.ERROR, log_to_driver=verbose, **own)
    except Exception as error:
        if address is None:
            raise
        said = str(error).strip().partition("\n")[0]
        rule = "ray_address: must be a cluster of which this machine is a part, and whose token it has"
        text = f"{rule}; got {address} ({type(error).__name__}: {said})"
        raise ConfigError([Refusal("cluster-joined", text)]) from None


def describe_cluster() -> str:
    """Which cluster this process is in, in words."""
    there, free = ray.cluster_resources(), ray.available_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    held = [f"{there[kind]:g} {kind}s ({free.get(kind, 0):g} free)" for kind in ("CPU", "GPU") if there.get(kind)]
    at = ray.get_runtime_context().gcs_address
    return f"in the cluster at {at}: {', '.join([f'{nodes} node' + 's' * (nodes > 1), *held])}"


def can_hold_trial(plan: Plan, node: dict[str, Any]) -> bool:
    """Whether a node may come to hold a trial."""
    there = preflight.offer(node)
    return there.cpus >= plan.options.cpus_per_trial and there.gpus >= plan.options.gpus_per_trial


def check_shared(results: Path, nodes: Sequence[dict[str, Any]]) -> None:
    """Every node reads what this process writes into the results folder, and this process what the node writes.

    nodes: of `ray.nodes()`, those that trials may come to. Raises ConfigError with the names of those that do not.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in nodes if node["NodeID"] != here]
    if not others:
        return
    results.mkdir(parents=True, exist_ok=True)
    place, word = results / f".probe-{uuid.uuid4().hex}", uuid.uuid4().hex
    place.mkdir()
    try:
        (place / "driver").write_text(word, encoding="utf-8")
        found = probe_nodes(others, place, word)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if blind := [f"{node_name(node)} ({why})" for node, why in zip(others, found, strict=True) if why]:
        text = (
            f"results: must be a folder that all nodes of the cluster share, which {', '.join(blind)} "
            f"{'do' if len(blind) > 1 else 'does'} not; got {results}"
        )
        raise ConfigError([Refusal("results-shared", text)])


def probe_nodes(nodes: Sequence[dict[str, Any]], place: Path, word: str) -> list[str]:
    """Why each node does not share a folder; empty for one that does."""
    look = ray.remote(num_cpus=0, max_retries=0)(probe_folder)
    jobs = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            str(place), word, node["NodeID"]
        )
        for node in nodes
    ]
    _, late = ray.wait(jobs, num_returns=len(jobs), timeout=NODE_SECONDS)
    for job in late:
        ray.cancel(job, force=True)
    answers = []
    for node, job in zip(nodes, jobs, strict=True):
        try:
            why = f"no answer in {NODE_SECONDS:g} s" if job in late else ray.get(job)
        except ray.exceptions.RayError as error:
            why = last_line(error)
        if not why and not (place / node["NodeID"]).exists():
            why = "what it writes is not seen here"
        answers.append(why)
    return answers


def probe_folder(place: str, word: str, own: str) -> str:
    """On a node: why it does not see what the driver wrote, or can't write there; empty where it does and can."""
    try:
        if (Path(place) / "driver").read_text(encoding="utf-8") != word:
            return "it sees another folder"
        (Path(place) / own).touch()
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


@contextmanager
def suppress_side_effects() -> Iterator[None]:
    """Have Ray Tune execute and do nothing else; afterwards all is as it was before."""
    with restore_interrupt_handler(), no_callback_telemetry(), tune_environment():
        yield


@contextmanager
def tune_environment() -> Iterator[None]:
    """Set what Ray Tune reads from the environment when it begins to execute.

    Its loggers and its new output stay off unless the user turned them on. It writes its own record at the start and
    the end only: nobody reads it. How many trials may wait is `StudyHost.has_capacity`'s to say.
    """
    before = dict(os.environ)
    defaults = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    fixed = {"TUNE_GLOBAL_CHECKPOINT_S": "1000000", "TUNE_MAX_PENDING_TRIALS_PG": "1000000"}
    os.environ.update(defaults | {name: before[name] for name in defaults if name in before} | fixed)
    try:
        yield
    finally:
        for name in (*defaults, *fixed):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


@contextmanager
def no_callback_telemetry() -> Iterator[None]:
    """Where Ray's telemetry is off, don't let it count callbacks: it imports MLflow to know its own, for more than a
    second that the first trial would wait.
    """
    try:
        usage: Any = import_module("ray.air._internal.usage")
        count = usage.tag_callbacks
    except (ImportError, AttributeError):  # not Ray's interface: another version may count otherwise
        yield
        return
    if os.environ.get("RAY_USAGE_STATS_ENABLED") == "0":
        usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = count


@contextmanager
def restore_interrupt_handler() -> Iterator[None]:
    """What Ctrl-C does afterwards is what it did before: Ray Tune leaves its own handler, which swallows one."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
