"""`python -m clsearch doctor`: what a study would find on this machine, and what to do where that will not do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from clsearch.common.errors import ConfigError
from clsearch.common.formatting import without_password
from clsearch.data.datasets import SOURCES
from clsearch.data.image_cache import cache_folder
from clsearch.execution.preflight import check_writable
from clsearch.execution.ray_address import address_problem
from clsearch.tracking.store_check import check_tracking

LOW_SPACE = 2 * 1024**3
"""Bytes: with less a study may end before it is done."""


@dataclass(frozen=True)
class Finding:
    """What was looked at, what is there, and the remedy where that is a problem."""

    what: str
    found: str
    remedy: str = ""


def examine(results: Path, data_root: Path | None, tracking_uri: str | None) -> Iterator[Finding]:
    """Everything that a study depends on outside itself, one after the other."""
    yield from packages()
    yield from devices()
    yield ray_cluster()
    yield store(tracking_uri)
    yield writable(results)
    yield from space(results)
    yield from data(data_root)


def packages() -> Iterator[Finding]:
    """The packages that clsearch asks for, in the versions that it asks for."""
    from packaging.requirements import Requirement

    try:
        lines = requires("clsearch") or []
    except PackageNotFoundError:  # a checkout that is run without being installed
        lines = []
        yield Finding("clsearch", "not installed, so what it needs is not known", "pip install -e . in the checkout")
    for line in lines:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        bare = f"{wanted.name}[{','.join(sorted(wanted.extras))}]" if wanted.extras else wanted.name
        remedy = f"pip install '{bare}{wanted.specifier}'"
        try:
            there = version(wanted.name)
        except PackageNotFoundError:
            yield Finding(wanted.name, "not installed", remedy)
            continue
        yield Finding(wanted.name, there, "" if wanted.specifier.contains(there, prereleases=True) else remedy)


def devices() -> Iterator[Finding]:
    """What torch computes with."""
    import torch

    yield Finding("CPU", f"{len(os.sched_getaffinity(0))} cores for this process")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(number).total_memory / 1024**3
            yield Finding(f"GPU {number}", f"{torch.cuda.get_device_name(number)}, {memory:.0f} GiB")
        return
    smi = shutil.which("nvidia-smi")
    remedy = "the driver is there, torch does not see a GPU: check CUDA_VISIBLE_DEVICES and torch's CUDA build"
    yield Finding("GPU", "none that torch sees", remedy if smi else "")


def ray_cluster() -> Finding:
    """The cluster that RAY_ADDRESS names; else what a Ray of this machine would have."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        shared = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
        remedy = "" if shared > 256 * 1024**2 else "give the container more shared memory (docker run --shm-size 4g)"
        found = f"starts one here: {len(os.sched_getaffinity(0))} CPUs, {shared / 1024**3:.1f} GiB of shared memory"
        return Finding("Ray", found, remedy)
    problem = address_problem(address)
    remedy = "start the cluster, or name another (RAY_ADDRESS); unset, a study starts a Ray of this machine"
    return Finding("Ray", problem or f"RAY_ADDRESS={address}", remedy if problem else "")


def store(uri: str | None) -> Finding:
    """Where records for MLflow would go."""
    if uri is None:
        return Finding("MLflow", "SQLite beside the results")
    try:
        check_tracking(uri)
    except ConfigError as error:
        return Finding("MLflow", "; ".join(error.problems), "start the server, or leave --tracking-uri out")
    return Finding("MLflow", f"{without_password(uri)} answers")


def writable(results: Path) -> Finding:
    """The results folder; it is left as it is."""
    there = results.exists()
    try:
        check_writable(results)
    except ConfigError as error:
        return Finding("results", "; ".join(error.problems), "choose another folder (--results DIR)")
    if not there:
        results.rmdir()
    return Finding("results", f"{results.resolve()} can be written")


def space(results: Path) -> Iterator[Finding]:
    """Free space where a study writes."""
    for what, folder in (("disk of the results", results), ("disk of the image cache", cache_folder())):
        there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
        free = shutil.disk_usage(there).free
        remedy = "" if free > LOW_SPACE else f"make room: {LOW_SPACE / 1024**3:.0f} GiB are on the safe side"
        yield Finding(what, f"{free / 1024**3:.1f} GiB free", remedy)


def data(root: Path | None) -> Iterator[Finding]:
    """Which data sets are there; one of which a part is missing is a problem."""
    if root is None:
        yield Finding("data", "digits, in the package; --data-root DIR looks for others")
        return
    if not root.is_dir():
        yield Finding("data", f"no folder {root}", "make it, or name another (--data-root DIR)")
        return
    for source in SOURCES.values():
        needed = [*source.files, *source.test_files]
        missing = [*source.missing_files(root, "train"), *source.missing_files(root, "test")]
        if needed and not missing:
            yield Finding(f"data: {source.name}", "there")
        elif len(missing) < len(needed):
            remedy = f"run a study with --data-root {root} --download"
            yield Finding(f"data: {source.name}", f"lacks {', '.join(missing)}", remedy)
