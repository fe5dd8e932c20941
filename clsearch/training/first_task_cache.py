"""The first task, trained once for all trials that train it alike.

At fixed seeds, whatever a regularizer's settings are, nothing of them acts before there is something to hold on to:
until the last step of task 1, trials of LwF, EWC and finetuning do the same. So the first of them leaves parameters,
moments and learning curve in a file, and the others go on from there, each with its own `remember`. The name of the
file is a digest of all that is read until then, so on a CPU a trial that takes it over equals one that does not, bit
for bit.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clsearch.common.files import TEMPORARY, write_atomically
from clsearch.config.sections import BACKBONES
from clsearch.methods.base import TrainingScheme
from clsearch.methods.registry import BUILT_IN, fields_of
from clsearch.training.state import TrialState, members_of, together
from clsearch.training.trial_setup import Run, settings_of

TRAINING_PACKAGES = ("common", "config", "data", "methods", "networks", "tasks", "training")
"""Packages whose code decides what a first task becomes."""

UNUSED_SECONDS = 24 * 3600.0
"""A file that no trial took over for so long is removed when the next study begins."""


def shares(run: Run, state: TrialState) -> bool:
    """Whether what is trained next is the same in other trials. Not with a user's own regularizer, which may act from
    the first step, nor with a network of the user's own, whose code has no digest, nor among configurations that differ
    in their learning rate.
    """
    return (
        run.prefixes is not None
        and state.tasks_learned == 0
        and run.scheme is TrainingScheme.CONTINUAL
        and run.config.algorithm in BUILT_IN
        and run.config.backbone in BACKBONES
        and len({*run.hyperparameters["learning_rate"].tolist()}) == 1
    )


def first_task(run: Run, state: TrialState, train: Callable[[Run, TrialState], TrialState]) -> TrialState:
    """A state that is trained on the first task: taken over where another trial has left it, else by `train`, and left
    for others. Several configurations that train together train it once. A folder that can't be read or written costs
    the sharing and nothing else.
    """
    lead, G = run.lead, run.configurations
    start = members_of(state, 0, run.seeds_each)
    path, began = _path(lead), time.perf_counter()
    found = _read(path, run.device)
    if found is None:
        trained = train(lead, start)
        _leave(path, trained, lead.columns, time.perf_counter() - began)
        return together([trained] * G)
    with suppress(OSError):
        path.touch()  # still used
    taken = replace(
        start,
        params=found["params"],
        moments=found["moments"],
        curve=arranged(found["curve"], found["columns"], run.columns),
        epochs=found["epochs"],
    )
    return replace(together([taken] * G), shared=found["seconds"])


def _path(lead: Run) -> Path:
    assert lead.prefixes is not None
    return lead.prefixes / f"{name_of(lead)}.pt"


def _leave(path: Path, trained: TrialState, columns: tuple[str, ...], seconds: float) -> None:
    content = {"params": trained.params, "moments": trained.moments, "curve": trained.curve, "epochs": trained.epochs}
    buffer = io.BytesIO()
    torch.save(content | {"columns": list(columns), "seconds": seconds}, buffer)
    with suppress(OSError):  # a trial's own state can't be written then either, which ends the search with what to do
        write_atomically(path, buffer.getvalue())


def arranged(curve: Tensor, columns: list[str], wanted: tuple[str, ...]) -> Tensor:
    """A learning curve [E, M, K] of other columns: what is not logged there is 0, as it is in the first task, and NaN
    for a member whose steps were over.
    """
    absent = torch.zeros_like(curve[..., 0]).masked_fill(curve[..., 0].isnan(), torch.nan)
    own = dict(zip(columns, curve.unbind(-1), strict=True))
    return torch.stack([own.get(name, absent) for name in wanted], -1)


def _read(path: Path, device: torch.device) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:  # torch raises many types over a file that is not its own; then it is trained, and written anew
        return None
    for kind in ("params", "moments"):
        content[kind] = {name: value.to(device) for name, value in content[kind].items()}
    return content


def name_of(run: Run) -> str:
    """A digest of all that is read until the last step of the first task: settings that every algorithm has, the data
    themselves, seeds (their number is the cohort's shape), code, and the machine's arithmetic.
    """
    machine = [torch.__version__, platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    device = [run.device.type]
    if run.device.type == "cuda":
        device.append(torch.cuda.get_device_name(run.device))
    first = run.benchmark.tasks[0]
    data = [zlib.crc32(values.cpu().numpy().data) for values in (first.train.inputs, first.train.labels)]
    settings = settings_of(run.config, fields_of("finetuning"))
    text = json.dumps([settings, run.seeds, first.origin, data, code_digest(), machine, device], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@cache
def code_digest() -> str:
    """A digest of all code that training runs."""
    package = Path(__file__).parents[1]
    files = [path for name in TRAINING_PACKAGES for path in sorted((package / name).rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def tidy(folder: Path) -> None:
    """Remove files that nobody took over for long, and what a process that was killed left half written."""
    oldest = time.time() - UNUSED_SECONDS
    for path in [*folder.glob("*.pt"), *folder.glob(TEMPORARY)]:
        with suppress(OSError):  # another process was faster
            if path.stat().st_mtime < oldest:
                path.unlink()
