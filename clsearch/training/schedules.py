"""Learning rate schedules within a task; each task starts the schedule again."""

from __future__ import annotations

import torch
from torch import Tensor

from clsearch.config.sections import TrainingConfig


def lr_multipliers(config: TrainingConfig, steps: int) -> Tensor:
    """Compute the factor of the learning rate at each step of a task.

    The factor rises linearly over the first `warmup` share of the steps (at least one step, not all). Over the other
    steps, x rises from 0 to 1 and the factor is

        constant  1
        cosine    (1 + cos πx) / 2 (Loshchilov & Hutter 2017, without restarts within the task)
        step      decay^n with n the number of milestones <= x

    Args:
        config: The training settings.
        steps: Number of steps of the task.

    Returns:
        [steps] float64.
    """
    rising = min(steps - 1, max(1, round(config.warmup * steps))) if config.warmup else 0
    x = torch.arange(steps - rising, dtype=torch.float64) / max(1, steps - rising)
    match config.schedule:
        case "cosine":
            shares = (1 + torch.cos(torch.pi * x)) / 2
        case "step":
            reached = (x[:, None] >= torch.tensor(config.milestones, dtype=torch.float64)).sum(1)
            shares = torch.tensor(config.decay, dtype=torch.float64) ** reached
        case _:
            shares = torch.ones_like(x)
    return torch.cat([torch.arange(1, rising + 1, dtype=torch.float64) / (rising + 1), shares])
