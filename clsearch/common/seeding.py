"""Derive all randomness of a trial from its seed; no global generator is used."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, task: int, epoch: int, purpose: str) -> int:
    """Derive a 63-bit seed from all four arguments, the same on every machine.

    Args:
        seed: The member's seed.
        task: The task's original number, from 1; 0 for the whole sequence. A trial that leaves a task out still draws
            the same numbers for the others.
        epoch: From 1; 0 for the whole task.
        purpose: Separates the draws of one task and epoch.
    """
    digest = hashlib.sha256(f"{seed}/{task}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derive_generator(seed: int, task: int, epoch: int, purpose: str) -> torch.Generator:
    """Return a CPU generator seeded by `derive_seed`; draws on the CPU are equal for every device."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, task, epoch, purpose))
