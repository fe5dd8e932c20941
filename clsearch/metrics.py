"""Metrics of continual learning: pure functions of the accuracy matrix.

Everywhere R is [..., T+1, T]: R[i, j-1] is the accuracy on task j after learning task i, and after the requests to
unlearn that follow it; row 0 at initialisation; rows not yet reached and cells without a meaning are NaN, as are those
of tasks that were unlearned, from then on: every average after t tasks is over the tasks retained then. t is the number
of tasks learned. Results are [...].
Libraries disagree about "forgetting": here it is Chaudhry et al. 2018's, best earlier minus now.
"""

from __future__ import annotations

import torch
from torch import Tensor


def retained(R: Tensor, t: int) -> list[int]:
    """The tasks learned through task t that were not unlearned."""
    return [j for j in range(1, t + 1) if not R[..., t, j - 1].isnan().all()]


def average_accuracy(R: Tensor, t: int) -> Tensor:
    """A_t: mean accuracy over the tasks learned so far (Lopez-Paz & Ranzato 2017)."""
    return _of(R[..., t, :], retained(R, t)).mean(-1)


def average_incremental_accuracy(R: Tensor, t: int) -> Tensor:
    """Mean of A_1..A_t (Rebuffi et al. 2017)."""
    return torch.stack([average_accuracy(R, i) for i in range(1, t + 1)], -1).mean(-1)


def forgetting(R: Tensor, t: int) -> Tensor:
    """[..., t-1]: for each earlier task j < t, max over j <= l < t of R[l, j], minus R[t, j] (Chaudhry 2018). t > 1."""
    per_task = [R[..., j:t, j - 1].amax(-1) - R[..., t, j - 1] for j in range(1, t)]
    return torch.stack(per_task, -1)


def backward_transfer(R: Tensor, t: int) -> Tensor:
    """Mean over j < t of R[t, j] - R[j, j] (Lopez-Paz & Ranzato 2017)."""
    old = [j for j in retained(R, t) if j < t]
    return (_of(R[..., t, :], old) - _diagonal(R, old)).mean(-1)


def forward_transfer(R: Tensor, t: int) -> Tensor:
    """Mean over 1 < j <= t of R[j-1, j] - R[0, j] (Lopez-Paz & Ranzato 2017, eq. 4). t > 1; NaN where undefined."""
    later = [j for j in retained(R, t) if j > 1]
    return torch.stack([R[..., j - 1, j - 1] - R[..., 0, j - 1] for j in later], -1).mean(-1)


def learning_accuracy(R: Tensor, t: int) -> Tensor:
    """Mean over j <= t of R[j, j]: accuracy on each task right after learning it (Riemer et al. 2019)."""
    return _diagonal(R, retained(R, t)).mean(-1)


def intransigence(R: Tensor, joint: Tensor, t: int) -> Tensor:
    """Mean over j <= t of joint[j, j] - R[j, j] (Chaudhry et al. 2018): how much less of each task was learned, right
    after learning it, than a model trained on tasks 1..j together (its matrix: joint, [..., T+1, T]) knows of it.
    """
    own = retained(R, t)
    return (_diagonal(joint, own) - _diagonal(R, own)).mean(-1)


def _diagonal(R: Tensor, tasks: list[int]) -> Tensor:
    """[..., n] R[j, j] of some tasks."""
    return torch.stack([R[..., j, j - 1] for j in tasks], -1)


def _of(values: Tensor, tasks: list[int]) -> Tensor:
    """[..., n] the values [..., T] of some tasks."""
    return values[..., [j - 1 for j in tasks]]


def summary(R: Tensor, t: int) -> dict[str, Tensor]:
    """Every metric that is defined after t >= 1 tasks, by name; values [...].

    At t = 1 forgetting and the transfers are absent, not 0.
    """
    values = {
        "average_accuracy": average_accuracy(R, t),
        "average_incremental_accuracy": average_incremental_accuracy(R, t),
        "learning_accuracy": learning_accuracy(R, t),
    }
    own = retained(R, t)
    values |= {f"accuracy/task_{j:02d}": R[..., t, j - 1] for j in own}
    if old := [j for j in own if j < t]:
        lost = _of(forgetting(R, t), old)
        values["average_forgetting"] = lost.mean(-1)
        values["backward_transfer"] = backward_transfer(R, t)
        values |= {f"forgetting/task_{j:02d}": lost[..., i] for i, j in enumerate(old)}
    if any(j > 1 for j in own) and not (transfer := forward_transfer(R, t)).isnan().any():
        values["forward_transfer"] = transfer
    return values


Unlearning = dict[str, Tensor]
"""What is measured of a trial of which tasks were unlearned, [..., T+1, T] each, rows and columns as R's: `before` and
`after` the requests that follow a task, accuracy on every task; of unlearned ones `chance`, what guessing among the
answers gives; `distance` of the features from those of a model that was trained without them. Of test data there are
`after` and `chance` alone.
"""


def unlearning(measured: Unlearning, t: int) -> dict[str, Tensor]:
    """Every metric of unlearning that is defined after t tasks, by name; values [...]. None before the first request.

    unlearning/unlearned_accuracy: mean accuracy on the unlearned tasks. unlearning/gap_to_chance: mean of how far it is
    from chance, on either side. unlearning/distance: mean over the tasks learned so far.
    """
    if not measured:
        return {}
    chance, after = measured["chance"][..., t, :], measured["after"][..., t, :]
    gone = [j for j in range(1, chance.shape[-1] + 1) if not chance[..., j - 1].isnan().all()]
    if not gone:
        return {}
    own = _of(after, gone)
    values = {
        "unlearning/unlearned_accuracy": own.mean(-1),
        "unlearning/gap_to_chance": (own - _of(chance, gone)).abs().mean(-1),
    }
    values |= {f"unlearning/accuracy/task_{j:02d}": own[..., i] for i, j in enumerate(gone)}
    if "distance" in measured and not (far := measured["distance"][..., t, :t]).isnan().all():
        values["unlearning/distance"] = far.mean(-1)
        values |= {f"unlearning/distance/task_{j:02d}": far[..., j - 1] for j in range(1, t + 1)}
    return values


def over_seeds(values: dict[str, Tensor]) -> dict[str, float]:
    """Means over seeds of `values` [M] by name, and `<name>/std` their standard deviations (n - 1; none for M = 1)."""
    numbers = {name: value.mean().item() for name, value in values.items()}
    spread = {f"{name}/std": value.std().item() for name, value in values.items() if len(value) > 1}
    return numbers | spread


def last_rows(curve: torch.Tensor) -> torch.Tensor:
    """[M, K] each member's last row of a learning curve [E, M, K]; one that ended earlier has NaN after it."""
    epochs, members = (torch.arange(n) for n in curve.shape[:2])
    last = torch.where(curve.isnan().all(2), -1, epochs[:, None]).amax(0)
    return curve[last, members]
