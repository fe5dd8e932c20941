"""Choose and check the address of a study's Ray, and check a cluster job's results folder. Does not import Ray."""

from __future__ import annotations

import os
import re
import socket
import sys

from clsearch.common.deadline import PROBE_SECONDS
from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.redaction import redact_address
from clsearch.planning.plan import Plan

PORT = 6379
"""Default port of a cluster's head."""

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets in the process that `ray job submit` starts."""

SESSION = re.compile(r"session_\d{4}-\d{2}-\d{2}_|session_latest$|working_dir_files$|_ray_pkg_")
"""Ray's own folders, which are deleted with the cluster or the job."""


def cluster_address(plan: Plan) -> str | None:
    """Return the cluster that a study joins; None if it starts a Ray on this machine."""
    address = plan.options.ray_address or os.environ.get("RAY_ADDRESS") or "local"
    return None if address == "local" else address


def connected() -> bool:
    """Return True if this process is connected to a Ray already, for example in a notebook; the study uses that Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def joins(plan: Plan) -> bool:
    """Return True if a study joins an existing Ray, whose machines this process does not know yet."""
    return connected() or cluster_address(plan) is not None


def check_address(plan: Plan) -> None:
    """Check that the cluster of a plan can be joined from here. Raises ConfigError."""
    address = cluster_address(plan)
    if address is not None and not connected() and (problem := address_problem(address)):
        raise ConfigError([Refusal("ray-address", problem)])


def address_problem(address: str) -> str:
    """Explain why a cluster cannot be joined: its address has the wrong form, or nothing answers.

    Return "" if it can be joined, or for `auto`, which Ray resolves itself.
    """
    if address == "auto":
        return ""
    rule = "ray_address: must be auto, local or HOST:PORT of a cluster's head"
    shown = redact_address(address)
    scheme, mark, rest = shown.partition("://")
    if mark:
        server = shown if scheme in ("http", "https") else f"http://{rest.partition(':')[0]}:8265"
        return (
            f"{rule}, which this machine belongs to; got {shown}. From outside, submit the study as a job: "
            f"ray job submit --address {server} --working-dir . -- python studies/..."
        )
    if (found := host_and_port(address)) is None:
        return f"{rule}; got {shown}"
    if reason := unanswered(*found):
        return f"ray_address: must be a cluster that answers; got {shown} ({reason})"
    return ""


def host_and_port(address: str) -> tuple[str, int] | None:
    """Split HOST or HOST:PORT; return None for any other text."""
    host, _, port = address.rpartition(":") if ":" in address else (address, "", str(PORT))
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        return None
    return host.strip("[]"), int(port)


SETTINGS = b"\x04"
"""The type of HTTP/2's frame with which both ends of a gRPC connection begin: its fourth byte (RFC 9113)."""

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + SETTINGS + bytes(5)
"""How a gRPC client begins: HTTP/2's preface and an empty frame of settings (RFC 9113, section 3.4)."""


def unanswered(host: str, port: int) -> str:
    """Explain why no Ray answers at a port; "" if one does.

    Ray's control service speaks gRPC, so it answers a greeting at once. Ray itself would wait for a silent one.
    """
    try:
        with socket.create_connection((host, port), timeout=PROBE_SECONDS) as connection:
            connection.sendall(HELLO)
            answer = connection.recv(9)
    except TimeoutError:
        return f"no answer within {PROBE_SECONDS:g} s"
    except OSError as error:
        return str(error)
    return "" if answer[3:4] == SETTINGS or os.environ.get("RAY_USE_TLS") else "what listens there is not Ray"


def check_outlives_job(plan: Plan) -> None:
    """Check that a cluster job writes its results where they outlive the job. Raises ConfigError."""
    folder = plan.options.results.resolve()
    if JOB in os.environ and any(SESSION.match(part) for part in folder.parts):
        text = (
            f"results: must be a folder that outlives the job, on storage that all nodes share "
            f"(--results /shared/results); got {folder}, inside Ray's own session directory"
        )
        raise ConfigError([Refusal("results-outlive-job", text)])
