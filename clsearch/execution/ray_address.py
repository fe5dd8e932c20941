"""Which Ray a study runs in, and what must hold in a job of a cluster. Nothing of Ray is imported here."""

from __future__ import annotations

import os
import re
import socket
import sys

from clsearch.common.errors import ConfigError, Refusal
from clsearch.planning.plan import Plan
from clsearch.tracking.store_check import PROBE_SECONDS

PORT = 6379
"""Of a cluster's head, unless it was started with another."""

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the process that `ray job submit` starts."""

SESSION = re.compile(r"session_\d{4}-\d{2}-\d{2}_|session_latest$|working_dir_files$|_ray_pkg_")
"""Folders of Ray's own, which go with its cluster or its job."""


def cluster_address(plan: Plan) -> str | None:
    """The cluster that a study joins; None where it starts a Ray of this machine."""
    address = plan.options.ray_address or os.environ.get("RAY_ADDRESS") or "local"
    return None if address == "local" else address


def connected() -> bool:
    """Whether this process is connected to a Ray already, as a notebook may be: then that is the study's."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def joins(plan: Plan) -> bool:
    """Whether a study runs in a Ray that is there already, whose machines this process does not know yet."""
    return connected() or cluster_address(plan) is not None


def check_address(plan: Plan) -> None:
    """The cluster that a plan names can be joined from here. Raises ConfigError."""
    address = cluster_address(plan)
    if address is not None and not connected() and (problem := address_problem(address)):
        raise ConfigError([Refusal("ray-address", problem)])


def address_problem(address: str) -> str:
    """Why a cluster can't be joined: its address is of another kind, or nothing answers there. Empty where it may be,
    as `auto` may, which Ray looks up.
    """
    if address == "auto":
        return ""
    rule = "ray_address: must be auto, local or HOST:PORT of a cluster's head"
    scheme, mark, rest = address.partition("://")
    if mark:
        server = address if scheme in ("http", "https") else f"http://{rest.partition(':')[0]}:8265"
        return (
            f"{rule}, of which this machine is a part; got {address}. From outside, submit the study as a job: "
            f"ray job submit --address {server} --working-dir . -- python studies/..."
        )
    if (found := host_and_port(address)) is None:
        return f"{rule}; got {address}"
    if reason := unanswered(*found):
        return f"ray_address: must be a cluster that answers; got {address} ({reason})"
    return ""


def host_and_port(address: str) -> tuple[str, int] | None:
    """The parts of HOST or HOST:PORT; None where it is neither."""
    host, _, port = address.rpartition(":") if ":" in address else (address, "", str(PORT))
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        return None
    return host.strip("[]"), int(port)


def unanswered(host: str, port: int) -> str:
    """Why nothing answers at a port; empty where something does."""
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        return str(error)
    return ""


def check_outlives_job(plan: Plan) -> None:
    """In a job, results are not written where they would be lost with it. Raises ConfigError."""
    folder = plan.options.results.resolve()
    if JOB in os.environ and any(SESSION.match(part) for part in folder.parts):
        text = (
            f"results: must be a folder that outlives the job, on storage that all nodes share "
            f"(--results /shared/results); got {folder}, inside Ray's own session directory"
        )
        raise ConfigError([Refusal("results-outlive-job", text)])
