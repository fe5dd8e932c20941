"""Join or start the Ray of a study, and check it before training."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.files import temporary_folders
from clsearch.common.formatting import last_line
from clsearch.common.interrupts import signals_as_interrupt
from clsearch.common.redaction import redact, redact_address
from clsearch.execution import preflight
from clsearch.execution.resources import node_name
from clsearch.planning.plan import Plan
from clsearch.ray_runtime import liveness
from clsearch.ray_runtime.address import cluster_address
from clsearch.ray_runtime.internals import mute, signals_untouched
from clsearch.ray_runtime.local import start_ray, stop_ray
from clsearch.ray_runtime.supervision import supervised

NODE_SECONDS = 60.0
"""Timeout after which a node counts as one that does not share the results folder."""


@contextmanager
def ray_session(plan: Plan, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Use the Ray that this process is connected to, join the cluster that the study names, or start a Ray here.

    Only a Ray that was joined or started here is left or shut down at the end. In between, SIGTERM and SIGHUP are
    Ctrl-C: `ray job stop`, Slurm and Kubernetes send SIGTERM before they kill; Ray would exit at once.

    Args:
        plan: The study.
        say: Called with a line if Ray is slow to start.

    Raises:
        ConfigError: Ray does not start; the cluster does not exist, has no node that holds a trial, or its nodes do not
            share the results folder.
        RayDiedError: Ray died before the study began.
    """
    there = ray.is_initialized()
    if not plan.options.verbose:  # errors of trials are in their error.txt
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with signals_as_interrupt():
        try:
            if not there:
                join_or_start(plan, say)
            else:
                liveness.watch_joined()
            supervised(lambda: check_nodes(plan))
            yield
        finally:
            if there:
                liveness.watch_nothing()
            else:
                stop_ray(hurry=isinstance(sys.exc_info()[1], KeyboardInterrupt))


def check_nodes(plan: Plan) -> None:
    """Check that nodes can hold a trial and share the results folder. Raises ConfigError."""
    preflight.check_resources(plan, preflight.cluster_nodes())
    nodes = [node for node in ray.nodes() if node["Alive"] and can_hold_trial(plan, node)]
    check_shared(plan.options.results.resolve(), nodes)


def join_or_start(plan: Plan, say: Callable[[str], None]) -> None:
    """Join the cluster that a plan names, or start a Ray on this machine. Raises ConfigError if that fails."""
    address, verbose = cluster_address(plan), plan.options.verbose
    if address is None:
        start_ray(verbose, say)
        return
    level = logging.INFO if verbose else logging.ERROR
    try:
        with signals_untouched():
            mute(verbose)
            ray.init(address=address, logging_level=level, log_to_driver=verbose)
        liveness.watch_joined()
    except Exception as error:
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
    with no_callback_telemetry(), no_secrets_propagated(), tune_environment():
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
def no_secrets_propagated() -> Iterator[None]:
    """Keep AWS keys out of the workers' runtime environment, which Ray writes into its logs.

    Workers of a Ray that was started here inherit the environment; those of a cluster have their nodes'. Trials need no
    keys: the driver alone writes to a bucket (`--mirror`).
    """
    try:
        cache: Any = import_module("ray.tune.execution.class_cache")
        names = cache.ENV_VARS_TO_PROPAGATE
    except (ImportError, AttributeError):  # private to Ray: other versions can differ
        yield
        return
    cache.ENV_VARS_TO_PROPAGATE = {name for name in names if not name.startswith("AWS_")}
    try:
        yield
    finally:
        cache.ENV_VARS_TO_PROPAGATE = names
