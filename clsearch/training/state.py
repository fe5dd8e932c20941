"""All that a trial needs to go on after a learned task."""

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
"""Dicts of tensors [M, ...] in a state."""


@dataclass(frozen=True)
class TrialState:
    """A trial between two tasks. Nothing that later training depends on lives anywhere else.

    fingerprint: of the configuration and seeds it belongs to.
    params, moments, memory: name -> tensor [M, ...].
    accuracy: R [M, T+1, T] float64, NaN where not measured; of tasks that were unlearned, from then on.
    curve: [E, M, K] one row per epoch so far, averaged over its samples (columns: Run.columns).
    epochs: [E, 2] task and epoch of each row.
    seconds: spent in learning so far. shared: spent by another trial on the first task, which this one took over.
    updates: <task>/<name> -> what learning a task changed of a parameter, [M, ...], where tasks may be unlearned.
    unlearned: indices of the tasks that were. unlearning: what was measured of it, see `metrics.unlearning`.
    diverged: of several configurations, the place of one that diverged in the last task -> why.
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
        """Write atomically: `path` holds this state or the one before."""
        write_atomically(path, self.packed())

    def packed(self) -> bytes:
        """The state as bytes, for a file or another process."""
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path, fingerprint: str, device: torch.device) -> TrialState:
        """Read a state that `save` wrote.

        Raises FileNotFoundError, and ValueError where the file belongs to another configuration or other seeds.
        """
        return cls.unpacked(path.read_bytes(), fingerprint, device, str(path))

    @staticmethod
    def tasks_in(packed: bytes) -> int:
        """How many tasks a packed state learned."""
        return int(torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)["tasks_learned"])

    @classmethod
    def unpacked(cls, packed: bytes, fingerprint: str, device: torch.device, place: str = "state") -> TrialState:
        """A state from its bytes, as `load`. place: where they come from."""
        content = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
        if content["fingerprint"] != fingerprint:
            raise ValueError(
                f"{place}: must belong to this configuration and these seeds; its fingerprint is "
                f"{content['fingerprint']}, not {fingerprint}"
            )
        parts = ("params", "moments", "memory", "updates")
        for name in parts:  # the records stay on the CPU, where the loop keeps them
            content[name] = {key: value.to(device) for key, value in content.get(name, {}).items()}
        return cls(**content)


def together(states: Sequence[TrialState]) -> TrialState:
    """One state of the members of several, which have learned the same tasks. It has cost nothing yet."""
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


def apart(state: TrialState, before: Sequence[TrialState]) -> list[TrialState]:
    """What became of each of several states that were put together, with its share of what that cost."""
    M, G = len(state.accuracy), len(before)
    found = []
    for place, own in enumerate(before):
        part = members_of(state, place * M // G, (place + 1) * M // G)
        found.append(
            replace(
                part,
                fingerprint=own.fingerprint,
                seconds=own.seconds + state.seconds / G,
                shared=own.shared + state.shared,
                diverged={},
            )
        )
    return found


def members_of(state: TrialState, first: int, end: int) -> TrialState:
    """Some members' state."""
    if (first, end) == (0, len(state.accuracy)):
        return state
    own: dict[str, Any] = {
        kind: {name: value[first:end].clone() for name, value in getattr(state, kind).items()} for kind in STACKED
    }
    return replace(state, accuracy=state.accuracy[first:end].clone(), curve=state.curve[:, first:end].clone(), **own)
