"""Metrics of continual learning: pure functions of the accuracy matrix.

R is [..., T+1, T]: R[..., i, j-1] is the accuracy on task j after learning task i and after the unlearning requests
that follow it. Row 0 is measured at initialisation. Rows that are not reached yet and undefined cells are NaN; so are
the cells of a task from its unlearning on, so every average after t tasks is over the tasks retained by then. t is the
number of tasks learned. Leading dimensions, such as seeds, are kept: results are [...].

Libraries disagree about "forgetting": here it is that of Chaudhry et al. 2018, the best earlier accuracy minus the
current.

The examples use this matrix of three tasks:

    after task   on task 1   on task 2   on task 3
             0        0.50        0.50        0.50
             1        0.90        0.40        0.50
             2        0.70        0.80        0.60
             3        0.80        0.60        1.00
"""

from __future__ import annotations

import torch
from torch import Tensor


def retained(R: Tensor, t: int) -> list[int]:
    """List the tasks learned through task t and not unlearned.

    Args:
        R: [..., T+1, T], the accuracy matrix.
        t: Number of tasks learned.

    Returns:
        Numbers of the tasks, from 1.

    Example:
        >>> R = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.4, 0.5], [0.7, 0.8, 0.6], [0.8, 0.6, 1.0]])
        >>> retained(R, 2)
        [1, 2]
    """
    measured = ~R[..., t, :t].isnan().reshape(-1, t).all(0)
    return [j for j, known in enumerate(measured.tolist(), 1) if known]


def average_accuracy(R: Tensor, t: int) -> Tensor:
    """Compute A_t, the mean over retained tasks j <= t of R[t, j].

    Source: Lopez-Paz & Ranzato 2017, equation 2 (ACC).

    Args:
        R: [..., T+1, T], the accuracy matrix.
        t: Number of tasks learned, at least 1.

    Returns:
        [...], in [0, 1].

    Example:
        >>> R = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.4, 0.5], [0.7, 0.8, 0.6], [0.8, 0.6, 1.0]])
        >>> average_accuracy(R, 3)  # (0.8 + 0.6 + 1.0) / 3
        tensor(0.8000)
    """
    return _of(R[..., t, :], retained(R, t)).mean(-1)


def average_incremental_accuracy(R: Tensor, t: int) -> Tensor:
    """Compute the mean of A_1..A_t.

    Source: Rebuffi et al. 2017.

    Args:
        R: [..., T+1, T], the accuracy matrix.
        t: Number of tasks learned, at least 1.

    Returns:
        [...], in [0, 1].

    Example:
        >>> R = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.4, 0.5], [0.7, 0.8, 0.6], [0.8, 0.6, 1.0]])
        >>> average_incremental_accuracy(R, 2)  # (0.9 + (0.7 + 0.8) / 2) / 2
        tensor(0.8250)
    """
    return torch.stack([average_accuracy(R, i) for i in range(1, t + 1)], -1).mean(-1)


def forgetting(R: Tensor, t: int) -> Tensor:
    """Compute the forgetting of each earlier task j < t: max over j <= l < t of R[l, j], minus R[t, j].

    Source: Chaudhry et al. 2018.

    Args:
        R: [..., T+1, T], the accuracy matrix.
        t: Number of tasks learned, at least 2.

    Returns:
        [..., t-1], in [-1, 1]; positive if accuracy has fallen.

    Example:
        >>> R = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.4, 0.5], [0.7, 0.8, 0.6], [0.8, 0.6, 1.0]])
        >>> forgetting(R, 3)  # max(0.9, 0.7) - 0.8 and 0.8 - 0.6
        tensor([0.1000, 0.2000])
    """
    per_task = [R[..., j:t, j - 1].amax(-1) - R[..., t, j - 1] for j in range(1, t)]
    return torch.stack(per_task, -1)


def backward_transfer(R: Tensor, t: int) -> Tensor:
    """Compute the mean over retained tasks j < t of R[t, j] - R[j, j].

    Source: Lopez-Paz & Ranzato 2017, equation 3 (BWT).

    Args:
        R: [..., T+1, T], the accuracy matrix.
        t: Number of tasks learned, at least 2.

    Returns:
        [...], in [-1, 1]; negative if learning later tasks reduced the accuracy.

    Example:
        >>> R = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.4, 0.5], [0.7, 0.8, 0.6], [0.8, 0.6, 1.0]])
        >>> backward_transfer(R, 3)  # ((0.8 - 0.9) + (0.6 - 0.8)) / 2
        tensor(-0.1500)
    """
    old = [j for j in retained(R, t) if j < t]
    return (_of(R[..., t, :], old) - _diagonal(R, old)).mean(-1)


def forward_transfer(R: Tensor, t: int) -> Tensor:
    """Compute the mean over retained tasks 1 < j <= t of R[j-1, j] - R[0, j].

    Source: Lopez-Paz & Ranzato 2017, equation 4 (FWT).

    Args:
        R: [..., T+1, T], the accuracy matrix.
        t: Number of tasks learned, at least 2.

    Returns:
        [...], in [-1, 1]; NaN if undefined, as in class-incremental learning.

    Example:
        >>> R = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.4, 0.5], [0.7, 0.8, 0.6], [0.8, 0.6, 1.0]])
        >>> forward_transfer(R, 2)  # 0.4 - 0.5
        tensor(-0.1000)
    """
    later = [j for j in retained(R, t) if j > 1]
    return (_of(R.diagonal(0, -2, -1), later) - _of(R[..., 0, :], later)).mean(-1)


def learning_accuracy(R: Tensor, t: int) -> Tensor:
    """Compute the mean over retained tasks j <= t of R[j, j], the accuracy right after learning each task.

    Source: Riemer et al. 2019.

    Args:
        R: [..., T+1, T], the accuracy matrix.
        t: Number of tasks learned, at least 1.

    Returns:
        [...], in [0, 1].

    Example:
        >>> R = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.4, 0.5], [0.7, 0.8, 0.6], [0.8, 0.6, 1.0]])
        >>> learning_accuracy(R, 3)  # (0.9 + 0.8 + 1.0) / 3
        tensor(0.9000)
    """
    return _diagonal(R, retained(R, t)).mean(-1)


def intransigence(R: Tensor, joint: Tensor, t: int) -> Tensor:
    """Compute the mean over retained tasks j <= t of joint[j, j] - R[j, j].

    This is the accuracy on each task, right after learning it, that is missing to a model trained on tasks 1..j
    together. Source: Chaudhry et al. 2018.

    Args:
        R: [..., T+1, T], the accuracy matrix.
        joint: [..., T+1, T], the accuracy matrix of joint training.
        t: Number of tasks learned, at least 1.

    Returns:
        [...], in [-1, 1].

    Example:
        >>> R = torch.tensor([[0.5, 0.5], [0.8, 0.5], [0.7, 0.9]])
        >>> joint = torch.tensor([[0.5, 0.5], [0.9, 0.5], [0.9, 1.0]])
        >>> intransigence(R, joint, 2)  # ((0.9 - 0.8) + (1.0 - 0.9)) / 2
        tensor(0.1000)
    """
    tasks = retained(R, t)
    return (_diagonal(joint, tasks) - _diagonal(R, tasks)).mean(-1)


def _diagonal(R: Tensor, tasks: list[int]) -> Tensor:
    """Return R[j, j] of some tasks, [..., n]."""
    return _of(R.diagonal(-1, -2, -1), tasks)


def _of(values: Tensor, tasks: list[int]) -> Tensor:
    """Select the values [..., n] of some tasks from `values` [..., T]."""
    return values[..., [j - 1 for j in tasks]]


def summary(R: Tensor, t: int) -> dict[str, Tensor]:
    """Compute every metric that is defined after t tasks.

    After one task, forgetting and the transfers are absent, not 0.

    Args:
        R: [..., T+1, T], the accuracy matrix.
        t: Number of tasks learned, at least 1.

    Returns:
        Name -> [...]: average_accuracy, average_incremental_accuracy, learning_accuracy, accuracy/task_01 and so on,
        and if defined average_forgetting, forgetting/task_01 and so on, backward_transfer, forward_transfer.

    Example:
        >>> R = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.4, 0.5], [0.7, 0.8, 0.6], [0.8, 0.6, 1.0]])
        >>> sorted(summary(R, 1))
        ['accuracy/task_01', 'average_accuracy', 'average_incremental_accuracy', 'learning_accuracy']
        >>> summary(R, 3)["average_forgetting"]  # (0.1 + 0.2) / 2
        tensor(0.1500)
    """
    values = {
        "average_accuracy": average_accuracy(R, t),
        "average_incremental_accuracy": average_incremental_accuracy(R, t),
        "learning_accuracy": learning_accuracy(R, t),
    }
    tasks = retained(R, t)
    values |= {f"accuracy/task_{j:02d}": R[..., t, j - 1] for j in tasks}
    if old := [j for j in tasks if j < t]:
        lost = _of(forgetting(R, t), old)
        values["average_forgetting"] = lost.mean(-1)
        values["backward_transfer"] = backward_transfer(R, t)
        values |= {f"forgetting/task_{j:02d}": lost[..., i] for i, j in enumerate(old)}
    if any(j > 1 for j in tasks) and not (transfer := forward_transfer(R, t)).isnan().any():
        values["forward_transfer"] = transfer
    return values


Unlearning = dict[str, Tensor]
"""Measurements of a trial in which tasks were unlearned: name -> [..., T+1, T], rows and columns as R's.

- `before`, `after`: accuracy on every task before and after the requests that follow a task.
- `chance`: for unlearned tasks, 1 / number of active outputs, the accuracy of guessing.
- `distance`: distance of the backbone features to those of a model trained without the unlearned tasks.

Test data have `after` and `chance` only.
"""


def unlearning(measured: Unlearning, t: int) -> dict[str, Tensor]:
    """Compute every metric of unlearning that is defined after t tasks.

    Args:
        measured: `before`, `after`, `chance` and `distance`, [..., T+1, T] each; see `Unlearning`.
        t: Number of tasks learned, at least 1.

    Returns:
        Name -> [...]; empty before the first request. unlearning/unlearned_accuracy: mean accuracy on the unlearned
        tasks. unlearning/gap_to_chance: mean of the absolute difference between that accuracy and chance.
        unlearning/distance: mean distance over the tasks learned so far. unlearning/accuracy/task_01 and
        unlearning/distance/task_01: the same of one task.

    Example:
        >>> nan = float("nan")
        >>> after = torch.tensor([[nan, nan], [0.9, nan], [0.6, 0.8]])
        >>> chance = torch.tensor([[nan, nan], [nan, nan], [0.5, nan]])  # task 1 is unlearned after task 2
        >>> values = unlearning({"after": after, "chance": chance}, 2)
        >>> values["unlearning/unlearned_accuracy"], values["unlearning/gap_to_chance"]
        (tensor(0.6000), tensor(0.1000))
    """
    if not measured:
        return {}
    chance, after = measured["chance"][..., t, :], measured["after"][..., t, :]
    unlearned = [j for j in range(1, chance.shape[-1] + 1) if not chance[..., j - 1].isnan().all()]
    if not unlearned:
        return {}
    accuracy = _of(after, unlearned)
    values = {
        "unlearning/unlearned_accuracy": accuracy.mean(-1),
        "unlearning/gap_to_chance": (accuracy - _of(chance, unlearned)).abs().mean(-1),
    }
    values |= {f"unlearning/accuracy/task_{j:02d}": accuracy[..., i] for i, j in enumerate(unlearned)}
    if "distance" in measured and not (distance := measured["distance"][..., t, :t]).isnan().all():
        values["unlearning/distance"] = distance.mean(-1)
        values |= {f"unlearning/distance/task_{j:02d}": distance[..., j - 1] for j in range(1, t + 1)}
    return values


def over_seeds(values: dict[str, Tensor]) -> dict[str, float]:
    """Compute means and standard deviations over seeds.

    Args:
        values: Name -> [M], one value per seed.

    Returns:
        Name -> mean, and for M > 1 `<name>/std` -> standard deviation (n - 1).

    Example:
        >>> over_seeds({"average_accuracy": torch.tensor([0.5, 1.0])})["average_accuracy"]
        0.75
    """
    if not values:
        return {}
    stacked = torch.stack(list(values.values()))
    numbers = dict(zip(values, stacked.mean(-1).tolist(), strict=True))
    if stacked.shape[-1] > 1:
        numbers |= {f"{name}/std": std for name, std in zip(values, stacked.std(-1).tolist(), strict=True)}
    return numbers


def last_rows(curve: Tensor) -> Tensor:
    """Return each member's last row of a learning curve.

    Args:
        curve: [E, M, K], one row per epoch. A member whose training ends earlier has NaN afterwards.

    Returns:
        [M, K].

    Example:
        >>> curve = torch.tensor([[[0.75], [0.5]], [[0.25], [float("nan")]]])  # member 2 ends after one epoch
        >>> last_rows(curve).tolist()
        [[0.25], [0.5]]
    """
    epochs, members = (torch.arange(n) for n in curve.shape[:2])
    last = torch.where(curve.isnan().all(2), -1, epochs[:, None]).amax(0)
    return curve[last, members]
