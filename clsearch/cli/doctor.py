"""`clsearch doctor`: check what a study needs on this machine, and suggest remedies."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from clsearch.common.errors import ConfigError
from clsearch.common.redaction import redact_address
from clsearch.data.datasets import SOURCES
from clsearch.data.image_cache import cache_folder
from clsearch.execution.preflight import check_writable
from clsearch.ray_runtime.address import address_problem, connected
from clsearch.tracking.store_check import check_tracking

DISTRIBUTION = "clsearch-studies"
"""The name that pip knows clsearch by."""

LOW_SPACE = 2 * 1024**3
"""Bytes. With less free space a study may fail before it ends."""


@dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    Attributes:
        what: What was checked.
        found: What is there.
        remedy: What to do about a problem; empty if there is none.
    """

    what: str
    found: str
    remedy: str = ""


def run_checks(results: Path, data_root: Path | None, tracking_uri: str | None) -> Iterator[Finding]:
    """Check everything that a study depends on, one after the other."""
    yield from check_packages()
    yield from check_devices()
    yield from check_ray()
    yield from check_token()
    yield check_mlflow(tracking_uri)
    yield check_results(results)
    yield from check_space(results)
    yield from check_data(data_root)


def check_packages() -> Iterator[Finding]:
    """The required packages in their required versions."""
    from packaging.requirements import Requirement

    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # a checkout that is not installed
        lines = []
        yield Finding("clsearch", "not installed, so its requirements are unknown", "pip install -e . in the checkout")
    for line in lines:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        bare = f"{wanted.name}[{','.join(sorted(wanted.extras))}]" if wanted.extras else wanted.name
        remedy = f"pip install '{bare}{wanted.specifier}'"
        try:
            installed = version(wanted.name)
        except PackageNotFoundError:
            yield Finding(wanted.name, "not installed", remedy)
            continue
        fits = wanted.specifier.contains(installed, prereleases=True)
        yield Finding(wanted.name, installed, "" if fits else remedy)


def check_devices() -> Iterator[Finding]:
    """The CPU cores and GPUs that torch can use."""
    import torch

    yield Finding("CPU", f"{len(os.sched_getaffinity(0))} cores for this process")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(number).total_memory / 1024**3
            yield Finding(f"GPU {number}", f"{torch.cuda.get_device_name(number)}, {memory:.0f} GiB")
        return
    smi = shutil.which("nvidia-smi")
    remedy = "a driver is installed, but torch sees no GPU: check CUDA_VISIBLE_DEVICES and torch's CUDA build"
    yield Finding("GPU", "none visible to torch", remedy if smi else "")


def check_ray() -> Iterator[Finding]:
    """The cluster that RAY_ADDRESS names, else a local Ray, which is started and stopped."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        yield check_start()
        return
    problem = address_problem(address)
    remedy = "start the cluster, or set RAY_ADDRESS to another; unset it to use a local Ray"
    yield Finding("Ray", problem or f"RAY_ADDRESS={redact_address(address)}", remedy if problem else "")


def check_token() -> Iterator[Finding]:
    """The file with the token of Ray's clusters, which opens them to everybody who can read it."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if token.is_file():
        others = token.stat().st_mode & 0o077
        found = f"{token} is readable by others" if others else f"{token} is readable by its owner only"
        yield Finding("Ray's token", found, f"chmod 600 {token}" if others else "")


def check_start() -> Finding:
    """Start a Ray as a study does, and stop it."""
    from clsearch.ray_runtime.local import start_ray, stop_ray  # imports Ray, which takes a second

    shared = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    remedy = "" if shared > 256 * 1024**2 else "give the container more shared memory (docker run --shm-size 4g)"
    found = f"local: {len(os.sched_getaffinity(0))} CPUs, {shared / 1024**3:.1f} GiB of shared memory"
    if connected():
        return Finding("Ray", f"{found}, in use by this process", remedy)
    began = time.monotonic()
    try:
        start_ray()
    except ConfigError as error:
        return Finding("Ray", "; ".join(error.problems), remedy or "see left")
    took = time.monotonic() - began
    stop_ray()
    return Finding("Ray", f"{found}, starts in {took:.0f} s", remedy)


def check_mlflow(uri: str | None) -> Finding:
    """The MLflow store."""
    if uri is None:
        return Finding("MLflow", "SQLite in the results folder")
    try:
        check_tracking(uri)
    except ConfigError as error:
        return Finding("MLflow", "; ".join(error.problems), "start the server, or omit --tracking-uri")
    return Finding("MLflow", f"{redact_address(uri)} answers")


def check_results(results: Path) -> Finding:
    """Check that the results folder is writable, without leaving a trace."""
    try:
        check_writable(results)
    except ConfigError as error:
        return Finding("results", "; ".join(error.problems), "choose another folder (--results DIR)")
    return Finding("results", f"{results.resolve()} is writable")


def check_space(results: Path) -> Iterator[Finding]:
    """Free space on the disks of the results and of the image cache."""
    for what, folder in (("disk of the results", results), ("disk of the image cache", cache_folder())):
        there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
        free = shutil.disk_usage(there).free
        remedy = "" if free > LOW_SPACE else f"free some space: at least {LOW_SPACE / 1024**3:.0f} GiB recommended"
        yield Finding(what, f"{free / 1024**3:.1f} GiB free", remedy)


def check_data(root: Path | None) -> Iterator[Finding]:
    """The data sets below a folder; an incomplete one is a problem."""
    if root is None:
        yield Finding("data", "digits are included; check others with --data-root DIR")
        return
    if not root.is_dir():
        yield Finding("data", f"no folder {root}", "create it, or choose another (--data-root DIR)")
        return
    for source in SOURCES.values():
        needed = [*source.files, *source.test_files]
        missing = [*source.missing_files(root, "train"), *source.missing_files(root, "test")]
        if needed and not missing:
            yield Finding(f"data: {source.name}", "complete")
        elif len(missing) < len(needed):
            remedy = f"run a study with --data-root {root} --download"
            yield Finding(f"data: {source.name}", f"incomplete: {', '.join(missing)}", remedy)
