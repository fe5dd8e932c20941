"""The state of a trial between two tasks, and its file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clsearch.common.files import write_atomically

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
        """Write the state atomically: `path` contains this state or the previous one."""
        write_atomically(path, self.packed())

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
            ValueError: If the state belongs to another configuration or other seeds.
        """
        return cls.unpacked(path.read_bytes(), fingerprint, device, str(path))

    @staticmethod
    def tasks_in(packed: bytes) -> int:
        """Return the number of tasks that a serialized state has learned."""
        return int(torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)["tasks_learned"])

    @classmethod
    def unpacked(cls, packed: bytes, fingerprint: str, device: torch.device, place: str = "state") -> TrialState:
        """Deserialize a state, with the errors of `load`.

        Args:
            packed: The bytes of `packed`.
            fingerprint: The expected fingerprint.
            device: Device of the state's tensors.
            place: Origin of the bytes, for messages.
        """
        content = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
        if content["fingerprint"] != fingerprint:
            raise ValueError(
                f"{place}: must belong to this configuration and these seeds; its fingerprint is "
                f"{content['fingerprint']}, not {fingerprint}"
            )
        parts = ("params", "moments", "memory", "updates")
        for name in parts:  # accuracy and curve stay on the CPU, as in the loop
            content[name] = {key: value.to(device) for key, value in content.get(name, {}).items()}
        return cls(**content)


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
