"""Train the first task once for all trials that train it alike.

At fixed seeds, the settings of a regularizer have no effect before there is an earlier task: until the last step of
task 1, trials of LwF, EWC and finetuning are equal. So the first of these trials stores parameters, moments and
learning curve in a file, and the others continue from it, each with its own `remember`. The name of the file is a
digest of everything read until then, so on a CPU a trial that loads the file equals one that does not, bit for bit.
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

import torch
from torch import Tensor

from clsearch.common.checked_files import DamagedFile, read_checked, write_checked
from clsearch.common.errors import ConfigError
from clsearch.common.files import TEMPORARY
from clsearch.config.sections import BACKBONES
from clsearch.methods.base import TrainingScheme
from clsearch.methods.registry import BUILT_IN, fields_of
from clsearch.training.state import TrialState, find_misfit, slice_members, stack_states
from clsearch.training.trial_setup import TrialSetup, identifying_settings

TRAINING_PACKAGES = ("common", "config", "data", "methods", "networks", "tasks", "training")
"""Packages whose code determines the result of a first task."""

UNUSED_SECONDS = 24 * 3600.0
"""A file that no trial has loaded for this long is removed at the start of the next study."""


def can_share(trial: TrialSetup, state: TrialState) -> bool:
    """Return True if other trials train the next task in the same way.

    False for a user's own regularizer, which can act from the first step; for a user's own network, whose code has no
    digest; and for configurations that differ in a number that acts in every algorithm, as the learning rate.
    """
    return (
        trial.prefixes is not None
        and state.tasks_learned == 0
        and trial.scheme is TrainingScheme.CONTINUAL
        and trial.config.algorithm in BUILT_IN
        and trial.config.backbone in BACKBONES
        and not any(name in trial.differing for name in fields_of("finetuning"))
    )


def train_or_load_first_task(
    trial: TrialSetup, state: TrialState, train: Callable[[TrialSetup, TrialState], TrialState]
) -> TrialState:
    """Return a state trained on the first task: loads it if another trial has stored it, else trains and stores it.

    Several configurations that train together train it once. If the folder cannot be read or written, the trial trains
    the task itself. A damaged file is trained and written anew, and the trial says so.

    Args:
        trial: The trial's setup.
        state: The state before the first task.
        train: Trains a state of one configuration on the first task.
    """
    lead, G = trial.first_configuration, trial.configurations
    start = slice_members(state, 0, trial.seeds_each)
    path, began = _path(lead), time.perf_counter()
    try:
        loaded = _read(path, start, lead)
    except ConfigError as damage:
        trial.tell(f"the first task that trials share was trained again: {damage}")
        loaded = None
    if loaded is None:
        trained = train(lead, start)
        _store(path, trained, lead.columns, time.perf_counter() - began)
        return stack_states([trained] * G)
    with suppress(OSError):
        path.touch()  # marks it as used
    return replace(stack_states([loaded] * G), shared=loaded.shared)


def _path(lead: TrialSetup) -> Path:
    """Return the file of a setup of one configuration."""
    assert lead.prefixes is not None
    return lead.prefixes / f"{cache_key(lead)}.pt"


def _store(path: Path, trained: TrialState, columns: tuple[str, ...], seconds: float) -> None:
    """Store what a first task determines; ignores a folder that cannot be written."""
    content = {"params": trained.params, "moments": trained.moments, "curve": trained.curve, "epochs": trained.epochs}
    buffer = io.BytesIO()
    torch.save(content | {"columns": list(columns), "seconds": seconds}, buffer)
    with suppress(
        OSError
    ):  # then the trial's state cannot be written either, and that error ends the search with advice
        write_checked(path, buffer.getvalue())


def stack_members(curve: Tensor, columns: list[str], wanted: tuple[str, ...]) -> Tensor:
    """Select the columns of a learning curve.

    Args:
        curve: [E, M, K].
        columns: Names of its K columns.
        wanted: Names of the columns to return. A column that is missing in the curve is 0, as in the first task, and
            NaN for a member whose training has ended.

    Returns:
        [E, M, len(wanted)].
    """
    absent = torch.zeros_like(curve[..., 0]).masked_fill(curve[..., 0].isnan(), torch.nan)
    by_name = dict(zip(columns, curve.unbind(-1), strict=True))
    return torch.stack([by_name.get(name, absent) for name in wanted], -1)


def _read(path: Path, start: TrialState, lead: TrialSetup) -> TrialState | None:
    """Load a file of `_store`: the state after the first task; None if there is none or its folder cannot be read.

    Raises:
        DamagedFile: The file is damaged, or holds something else.
    """
    try:
        content = torch.load(io.BytesIO(read_checked(path)), map_location="cpu", weights_only=True)
        curve, columns = content["curve"], content["columns"]
        loaded = replace(
            start,
            params={name: value.to(lead.device) for name, value in content["params"].items()},
            moments={name: value.to(lead.device) for name, value in content["moments"].items()},
            curve=stack_members(curve, columns, lead.columns),
            epochs=content["epochs"],
            shared=float(content["seconds"]),
        )
        problem = find_misfit(loaded, start)
    except FileNotFoundError:
        return None
    except ConfigError:
        raise
    except Exception as error:  # torch raises many types for a file of something else
        raise DamagedFile(path, f"no first task ({type(error).__name__}: {error})"[:200]) from None
    if not problem and not curve.shape[0]:
        problem = "a curve without epochs"
    if problem:
        raise DamagedFile(path, problem)
    return loaded


def cache_key(trial: TrialSetup) -> str:
    """Return a digest of everything read until the last step of the first task.

    This includes the settings that every algorithm has, the data, the seeds (their number is the shape of the stack),
    the code, and the arithmetic of the machine.
    """
    machine = [torch.__version__, platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    device = [trial.device.type]
    if trial.device.type == "cuda":
        device.append(torch.cuda.get_device_name(trial.device))
    first = trial.benchmark.tasks[0]
    data = [zlib.crc32(values.cpu().numpy().data) for values in (first.train.inputs, first.train.labels)]
    settings = identifying_settings(trial.config, fields_of("finetuning"))
    text = json.dumps([settings, trial.seeds, first.origin, data, code_digest(), machine, device], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@cache
def code_digest() -> str:
    """Return a digest of all code that training runs."""
    package = Path(__file__).parents[1]
    files = [path for name in TRAINING_PACKAGES for path in sorted((package / name).rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def remove_unused(folder: Path) -> None:
    """Remove the files that no trial has loaded for long, and temporary files of killed processes."""
    oldest = time.time() - UNUSED_SECONDS
    for path in [*folder.glob("*.pt"), *folder.glob(TEMPORARY)]:
        with suppress(OSError):  # another process has removed it
            if path.stat().st_mtime < oldest:
                path.unlink()
