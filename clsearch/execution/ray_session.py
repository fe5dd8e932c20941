"""Join or start the Ray of a study, and check it before training."""

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
from clsearch.common.files import temporary_folders
from clsearch.common.formatting import last_line
from clsearch.common.redaction import redact, redact_address
from clsearch.execution import preflight
from clsearch.execution.ray_address import cluster_address
from clsearch.execution.resources import node_name
from clsearch.planning.plan import Plan

NODE_SECONDS = 60.0
"""Timeout after which a node counts as one that does not share the results folder."""


@contextmanager
def ray_session(plan: Plan) -> Iterator[None]:
    """Use the Ray that this process is connected to, join the cluster that the study names, or start a Ray here.

    Only a Ray that was joined or started here is left or shut down at the end.

    Raises:
        ConfigError: The cluster does not exist, has no node that holds a trial, or its nodes do not share the results
            folder.
    """
    joined = ray.is_initialized()
    if not plan.options.verbose:  # errors of trials are in their error.txt
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
    """Handle SIGTERM as Ctrl-C, so that records are written before the process ends.

    `ray job stop`, Slurm and Kubernetes send SIGTERM before they kill; Ray would exit at once.
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
    """Join the cluster that a plan names, or start a Ray on this machine. Raises ConfigError if that fails."""
    address, verbose = cluster_address(plan), plan.options.verbose
    own: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(logging_level=logging.INFO if verbose else logging.ERROR, log_to_driver=verbose, **own)
    except Exception as error:
        if address is None:
            raise
        said = redact(str(error).strip(), address).partition("\n")[0]
        rule = "ray_address: must be a cluster which this machine belongs to and whose token it has"
        text = f"{rule}; got {redact_address(address)} ({type(error).__name__}: {said})"
        raise ConfigError([Refusal("cluster-joined", text)]) from None


def describe_cluster() -> str:
    """Describe the cluster that this process is connected to."""
    there, free = ray.cluster_resources(), ray.available_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    held = [f"{there[kind]:g} {kind}s ({free.get(kind, 0):g} free)" for kind in ("CPU", "GPU") if there.get(kind)]
    at = ray.get_runtime_context().gcs_address
    return f"in the cluster at {at}: {', '.join([f'{nodes} node' + 's' * (nodes > 1), *held])}"


def can_hold_trial(plan: Plan, node: dict[str, Any]) -> bool:
    """Return True if a node has the resources for a trial."""
    there = preflight.offer(node)
    return there.cpus >= plan.options.cpus_per_trial and there.gpus >= plan.options.gpus_per_trial


def check_shared(results: Path, nodes: Sequence[dict[str, Any]]) -> None:
    """Check that every node reads what this process writes into the results folder, and the reverse.

    Args:
        results: The results folder.
        nodes: Nodes of `ray.nodes()` that can run trials.

    Raises:
        ConfigError: Some nodes do not share the folder; the message names them.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in nodes if node["NodeID"] != here]
    if not others:
        return
    place, word = results / f".probe-{uuid.uuid4().hex}", uuid.uuid4().hex
    with temporary_folders(results):
        place.mkdir()
        try:
            (place / "driver").write_text(word, encoding="utf-8")
            found = probe_nodes(others, place, word)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    if blind := [f"{node_name(node)} ({why})" for node, why in zip(others, found, strict=True) if why]:
        text = (
            f"results: must be a folder that all nodes of the cluster share; {', '.join(blind)} "
            f"{'do' if len(blind) > 1 else 'does'} not share it; got {results}"
        )
        raise ConfigError([Refusal("results-shared", text)])


def probe_nodes(nodes: Sequence[dict[str, Any]], place: Path, word: str) -> list[str]:
    """Explain for each node why it does not share a folder; "" if it does."""
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
            why = "its files are not visible here"
        answers.append(why)
    return answers


def probe_folder(place: str, word: str, own: str) -> str:
    """Check on a node that it reads what the driver wrote and can write there; return the problem or ""."""
    try:
        if (Path(place) / "driver").read_text(encoding="utf-8") != word:
            return "it sees another folder"
        (Path(place) / own).touch()
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


@contextmanager
def suppress_side_effects() -> Iterator[None]:
    """Suppress unwanted side effects of Ray Tune, and restore the former state afterwards."""
    with restore_interrupt_handler(), no_callback_telemetry(), tune_environment():
        yield


@contextmanager
def tune_environment() -> Iterator[None]:
    """Set the environment variables that Ray Tune reads when it starts.

    Its loggers and its new output stay off unless the user turned them on. It writes its own record, which nobody
    reads, only at the start and the end. `StudyHost.has_capacity` limits the number of pending trials instead.
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
    """Skip Ray's count of callbacks if its telemetry is off.

    The count imports MLflow, which delays the first trial by more than a second.
    """
    try:
        usage: Any = import_module("ray.air._internal.usage")
        count = usage.tag_callbacks
    except (ImportError, AttributeError):  # private to Ray: other versions can differ
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
    """Restore the former Ctrl-C handler: Ray Tune leaves its own, which swallows one interrupt."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
