"""The state of a trial between two tasks, and its file."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clsearch.common.checked_files import UNMARKED, DamagedFile, header_of, read_checked
from clsearch.common.files import atomic_path, previous_path, set_folder_aside

KINDS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float | int,
    "tuple": tuple | list,
    "dict": dict,
    "Tensor": Tensor,
}
"""Types of a state's fields."""

STACKED = ("params", "moments", "memory", "updates", "unlearning")
"""Names of the state's dicts of tensors [M, ...]."""


@dataclass(frozen=True)
class TrialState:
    """A trial between two tasks: everything that later training depends on.

    Args:
        fingerprint: Digest of the configuration and the seeds.
        tasks_learned: Number of tasks learned.
        params: Name -> [M, ...].
        moments: Optimizer state, name -> [M, ...].
        memory: What methods keep of earlier tasks, name -> [M, ...].
        accuracy: R [M, T+1, T] float64; NaN in cells that are not measured, and for unlearned tasks from their
            unlearning on.
        curve: [E, M, K], one row per epoch so far, averaged over its samples (columns: `TrialSetup.columns`).
        epochs: [E, 2], task and epoch of each row of `curve`.
        seconds: Time spent in learning so far.
        updates: `<task>/<name>` -> change of a parameter by learning a task, [M, ...], if tasks can be unlearned.
        unlearned: Indices of the unlearned tasks.
        unlearning: Measurements of unlearning, see `metrics.Unlearning`.
        shared: Time that another trial spent on the first task that this trial loaded, in seconds.
        diverged: Position among several configurations -> message, for each that diverged in the last task.
    """

    fingerprint: str
    tasks_learned: int
    params: dict[str, Tensor]
    moments: dict[str, Tensor]
    memory: dict[str, Tensor]
    accuracy: Tensor
    curve: Tensor
    epochs: Tensor
    seconds: float
    updates: dict[str, Tensor] = field(default_factory=dict)
    unlearned: tuple[int, ...] = ()
    unlearning: dict[str, Tensor] = field(default_factory=dict)
    shared: float = 0.0
    diverged: dict[int, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the state atomically, and keep the one before it, see `save_packed`."""
        save_packed(path, self.packed())

    def packed(self) -> bytes:
        """Serialize the state, for a file or another process."""
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path, fingerprint: str, device: torch.device) -> TrialState:
        """Read a state that `save` wrote.

        Args:
            path: The file.
            fingerprint: The expected fingerprint.
            device: Device of the state's tensors.

        Raises:
            FileNotFoundError: If there is no such file.
            DamagedFile: If it cannot be read.
            ForeignState: If the state belongs to another configuration or other seeds.
        """
        return cls.unpacked(read_checked(path, UNMARKED), fingerprint, device, path)

    @staticmethod
    def summary(packed: bytes, place: Path) -> tuple[str, int]:
        """Return the fingerprint of a serialized state, and its number of learned tasks. Raises DamagedFile."""
        content = _content_of(packed, place)
        return content["fingerprint"], content["tasks_learned"]

    @classmethod
    def unpacked(cls, packed: bytes, fingerprint: str, device: torch.device, place: Path = Path("state")) -> TrialState:
        """Deserialize a state, with the errors of `load`.

        Args:
            packed: The bytes of `packed`.
            fingerprint: The expected fingerprint.
            device: Device of the state's tensors.
            place: Origin of the bytes, for messages.
        """
        content = _content_of(packed, place)
        if content["fingerprint"] != fingerprint:
            raise ForeignState(
                f"{place}: must belong to this configuration and these seeds; its fingerprint is "
                f"{content['fingerprint']}, not {fingerprint}"
            )
        parts = ("params", "moments", "memory", "updates")
        for name in parts:  # accuracy and curve stay on the CPU, as in the loop
            content[name] = {key: value.to(device) for key, value in content.get(name, {}).items()}
        return cls(**content)


class ForeignState(ValueError):
    """A state of another configuration or of other seeds."""


def save_packed(path: Path, packed: bytes) -> None:
    """Write a packed state atomically, and keep the one before it beside it: a damaged state costs one task.

    If the process is killed between the two renames, only the state before is there, as before the call.

    Raises:
        OSError: If the disk refuses the write; `path` then contains the state before.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(header_of(packed) + packed)
        set_folder_aside(path)
        set_folder_aside(previous_path(path))
        with suppress(FileNotFoundError):
            os.replace(path, previous_path(path))


def load_latest(
    path: Path, fresh: TrialState, tasks: int, device: torch.device, foreign: bool = False
) -> tuple[TrialState | None, list[str]]:
    """Read the newest state of a trial that is whole.

    Args:
        path: The file of its state.
        fresh: The state before the first task; parameters of a state have the same names and shapes.
        tasks: Number of tasks that the trial learns.
        device: Device of the state's tensors.
        foreign: Pass over a state of another configuration, too, instead of raising.

    Returns:
        The state, None if there is none; and what is wrong with the states that were passed over.

    Raises:
        ForeignState: The state belongs to another configuration or other seeds.
    """
    problems: list[str] = []
    for place in (path, previous_path(path)):
        try:
            state = TrialState.load(place, fresh.fingerprint, device)
            if not 0 < state.tasks_learned <= tasks or state.accuracy.shape != fresh.accuracy.shape:
                raise DamagedFile(place, "a state of other tasks")
            if problem := find_misfit(state, fresh):
                raise DamagedFile(place, problem)
            if place != path:
                with suppress(OSError):  # the next save says why
                    set_folder_aside(path)
                    os.replace(place, path)
            return state, problems
        except FileNotFoundError:
            continue
        except DamagedFile as error:
            problems.append(f"{place.name}: {error.why}")
        except ForeignState:
            if not foreign:
                raise
            problems.append(f"{place.name}: a state of another configuration or other seeds")
    return None, problems


def find_misfit(state: TrialState, fresh: TrialState) -> str:
    """Return what in the arrays of a trained state does not fit its trial; "" if all does. fresh: before training."""
    for kind in ("params", "moments"):
        found, expected = getattr(state, kind), getattr(fresh, kind)
        if found.keys() != expected.keys():
            return f"other {kind} than {', '.join(expected) or 'none'}"
        for name, value in found.items():
            if (value.shape, value.dtype) != (expected[name].shape, expected[name].dtype):
                return f"{name} of another shape or type"
            if kind == "params" and not value.isfinite().all():  # a trial whose parameters are not finite ends
                return f"{name} that is not finite"
    if state.curve.shape[1:] != fresh.curve.shape[1:] or state.epochs.shape != (len(state.curve), 2):
        return "a curve of another shape"
    return ""


def _content_of(packed: bytes, place: Path) -> dict[str, Any]:
    """Deserialize the fields of a state. Raises DamagedFile."""
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            damaged = archive.testzip()  # the only check of files without digest
        content = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types
        raise DamagedFile(place, f"no state ({type(error).__name__})") from None
    if damaged is not None:
        raise DamagedFile(place, "content that does not fit its checksum")
    if not isinstance(content, dict):
        raise DamagedFile(place, f"a {type(content).__name__}, not a state")
    known = {own.name: own for own in fields(TrialState)}
    for name, own in known.items():
        if name not in content and own.default is MISSING and own.default_factory is MISSING:
            raise DamagedFile(place, f"key {name}: missing")
    for name, value in content.items():
        if name not in known or not isinstance(value, KINDS[str(known[name].type).partition("[")[0]]):
            raise DamagedFile(place, f"key {name}: {type(value).__name__}")
        if "Tensor]" in str(known[name].type) and not all(isinstance(part, Tensor) for part in value.values()):
            raise DamagedFile(place, f"key {name}: other values than tensors")
    return content


def stack_states(states: Sequence[TrialState]) -> TrialState:
    """Stack the members of several states that have learned the same tasks; the result has cost no time yet."""
    first = states[0]
    if len(states) == 1:
        return replace(first, seconds=0.0, shared=0.0)
    stacked: dict[str, Any] = {
        kind: {name: torch.cat([getattr(state, kind)[name] for state in states]) for name in getattr(first, kind)}
        for kind in STACKED
    }
    return replace(
        first,
        accuracy=torch.cat([state.accuracy for state in states]),
        curve=torch.cat([state.curve for state in states], 1),
        seconds=0.0,
        shared=0.0,
        **stacked,
    )


def split_state(state: TrialState, before: Sequence[TrialState]) -> list[TrialState]:
    """Split a stacked state, and divide its cost.

    Args:
        state: The stacked state.
        before: The states that were stacked.

    Returns:
        The new state of each of `before`.
    """
    M, G = len(state.accuracy), len(before)
    states = []
    for position, previous in enumerate(before):
        part = slice_members(state, position * M // G, (position + 1) * M // G)
        states.append(
            replace(
                part,
                fingerprint=previous.fingerprint,
                seconds=previous.seconds + state.seconds / G,
                shared=previous.shared + state.shared,
                diverged={},
            )
        )
    return states


def slice_members(state: TrialState, first: int, end: int) -> TrialState:
    """Return the state of members first..end-1."""
    if (first, end) == (0, len(state.accuracy)):
        return state
    members: dict[str, Any] = {
        kind: {name: value[first:end].clone() for name, value in getattr(state, kind).items()} for kind in STACKED
    }
    return replace(
        state, accuracy=state.accuracy[first:end].clone(), curve=state.curve[:, first:end].clone(), **members
    )
