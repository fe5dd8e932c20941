"""All randomness of a trial is derived from its seed; nothing global is drawn from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_of(seed: int, task: int, epoch: int, purpose: str) -> int:
    """A 63-bit seed that depends on all four arguments, the same on every machine.

    `task` is the task's original index (from 1; 0 = the whole sequence), so a trial that leaves a task out still
    draws the same numbers for the others.
    """
    digest = hashlib.sha256(f"{seed}/{task}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_of(seed: int, task: int, epoch: int, purpose: str) -> torch.Generator:
    """A CPU generator seeded by `seed_of`; drawing on the CPU keeps the numbers equal on every device."""
    import torch

    return torch.Generator().manual_seed(seed_of(seed, task, epoch, purpose))
