"""All that a trial needs to go on after a learned task."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from clsearch.core.files import write_atomically


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
