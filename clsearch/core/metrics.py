"""Metrics of continual learning: pure functions of the accuracy matrix.

Everywhere R is [..., T+1, T]: R[i, j-1] is the accuracy on task j after learning task i, row 0 at initialisation;
rows not yet reached and cells without a meaning are NaN. t is the number of tasks learned. Results are [...].
Libraries disagree about "forgetting": here it is Chaudhry et al. 2018's, best earlier minus now.
"""

from __future__ import annotations

import torch
from torch import Tensor


def average_accuracy(R: Tensor, t: int) -> Tensor:
    """A_t: mean accuracy over the tasks learned so far (Lopez-Paz & Ranzato 2017)."""
    return R[..., t, :t].mean(-1)


def average_incremental_accuracy(R: Tensor, t: int) -> Tensor:
    """Mean of A_1..A_t (Rebuffi et al. 2017)."""
    return torch.stack([average_accuracy(R, i) for i in range(1, t + 1)], -1).mean(-1)


def forgetting(R: Tensor, t: int) -> Tensor:
    """[..., t-1]: for each earlier task j < t, max over j <= l < t of R[l, j], minus R[t, j] (Chaudhry 2018). t > 1."""
    per_task = [R[..., j:t, j - 1].amax(-1) - R[..., t, j - 1] for j in range(1, t)]
    return torch.stack(per_task, -1)


def backward_transfer(R: Tensor, t: int) -> Tensor:
    """Mean over j < t of R[t, j] - R[j, j] (Lopez-Paz & Ranzato 2017)."""
    return (R[..., t, : t - 1] - _diagonal(R, t)[..., : t - 1]).mean(-1)


def forward_transfer(R: Tensor, t: int) -> Tensor:
    """Mean over 1 < j <= t of R[j-1, j] - R[0, j] (Lopez-Paz & Ranzato 2017, eq. 4). t > 1; NaN where undefined."""
    return torch.stack([R[..., j - 1, j - 1] - R[..., 0, j - 1] for j in range(2, t + 1)], -1).mean(-1)


def learning_accuracy(R: Tensor, t: int) -> Tensor:
    """Mean over j <= t of R[j, j]: accuracy on each task right after learning it (Riemer et al. 2019)."""
    return _diagonal(R, t).mean(-1)


def intransigence(R: Tensor, joint: Tensor, t: int) -> Tensor:
    """Mean over j <= t of joint[j, j] - R[j, j] (Chaudhry et al. 2018): how much less of each task was learned, right
    after learning it, than a model trained on tasks 1..j together (its matrix: joint, [..., T+1, T]) knows of it.
    """
    return (_diagonal(joint, t) - _diagonal(R, t)).mean(-1)


def _diagonal(R: Tensor, t: int) -> Tensor:
    return R[..., 1 : t + 1, :t].diagonal(dim1=-2, dim2=-1)


def summary(R: Tensor, t: int) -> dict[str, Tensor]:
    """Every metric that is defined after t >= 1 tasks, by name; values [...].

    At t = 1 forgetting and the transfers are absent, not 0.
    """
    values = {
        "average_accuracy": average_accuracy(R, t),
        "average_incremental_accuracy": average_incremental_accuracy(R, t),
        "learning_accuracy": learning_accuracy(R, t),
    }
    values |= {f"accuracy/task_{j:02d}": R[..., t, j - 1] for j in range(1, t + 1)}
    if t > 1:
        lost = forgetting(R, t)
        values["average_forgetting"] = lost.mean(-1)
        values["backward_transfer"] = backward_transfer(R, t)
        values |= {f"forgetting/task_{j:02d}": lost[..., j - 1] for j in range(1, t)}
        transfer = forward_transfer(R, t)
        if not transfer.isnan().any():
            values["forward_transfer"] = transfer
    return values


def over_seeds(values: dict[str, Tensor]) -> dict[str, float]:
    """Means over seeds of `values` [M] by name, and `<name>/std` their standard deviations (n - 1; none for M = 1)."""
    numbers = {name: value.mean().item() for name, value in values.items()}
    spread = {f"{name}/std": value.std().item() for name, value in values.items() if len(value) > 1}
    return numbers | spread
