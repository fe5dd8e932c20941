"""Metrics of continual learning: pure functions of the accuracy matrix.

R is [..., T+1, T]: R[..., i, j-1] is the accuracy on task j after learning task i and after the unlearning requests
that follow it. Row 0 is measured at initialisation. Rows that are not reached yet and undefined cells are NaN; so are
the cells of a task from its unlearning on, so every average after t tasks is over the tasks retained by then. t is the
number of tasks learned. Leading dimensions, such as seeds, are kept: results are [...].

Matrices are numpy arrays or torch tensors; results are of the same kind and dtype, tensors without gradients.

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

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", bound="np.ndarray | Tensor")
"""A numpy array or a torch tensor."""

F = TypeVar("F", bound=Callable[..., Any])


def _accept_tensors(compute: F) -> F:
    """Let a function of arrays, and of dicts of arrays, take tensors, too, and then return tensors.

    Importing torch takes two seconds; who has tensors has imported it.
    """

    @wraps(compute)
    def compute_either(*values: Any, **named: Any) -> Any:
        torch, devices = sys.modules.get("torch"), []

        def to_array(value: Any) -> Any:
            if torch is None or not isinstance(value, torch.Tensor):
                return value
            devices.append(value.device)
            return value.detach().cpu().numpy()

        def to_tensor(value: Any) -> Any:
            is_array = isinstance(value, np.ndarray | np.generic)
            return torch.from_numpy(np.asarray(value)).to(devices[0]) if torch and is_array else value

        given = [_map(to_array, value) for value in values]
        found = compute(*given, **{name: _map(to_array, value) for name, value in named.items()})
        return _map(to_tensor, found) if devices else found

    return compute_either  # type: ignore[return-value]


def _map(convert: Callable[[Any], Any], value: Any) -> Any:
    """Convert a value, or each value of a dict."""
    return {name: convert(one) for name, one in value.items()} if isinstance(value, dict) else convert(value)


@_accept_tensors
def retained(R: Array, t: int) -> list[int]:
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
    missing: Any = np.isnan(R[..., t, :t])
    return [j for j, unlearned in enumerate(missing.reshape(-1, t).all(0), 1) if not unlearned]


@_accept_tensors
def average_accuracy(R: Array, t: int) -> Array:
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
    return _mean(_of(R[..., t, :], retained(R, t)))


@_accept_tensors
def average_incremental_accuracy(R: Array, t: int) -> Array:
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
    return _mean(np.stack([average_accuracy(R, i) for i in range(1, t + 1)], -1))


@_accept_tensors
def forgetting(R: Array, t: int) -> Array:
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
    best: Any = np.stack([np.max(R[..., j:t, j - 1], -1) for j in range(1, t)], -1)
    return best - R[..., t, : t - 1]


@_accept_tensors
def backward_transfer(R: Array, t: int) -> Array:
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
    return _mean(_of(R[..., t, :], old) - _diagonal(R, old))


@_accept_tensors
def forward_transfer(R: Array, t: int) -> Array:
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
    return _mean(_of(R.diagonal(0, -2, -1), later) - _of(R[..., 0, :], later))


@_accept_tensors
def learning_accuracy(R: Array, t: int) -> Array:
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
    return _mean(_diagonal(R, retained(R, t)))


@_accept_tensors
def intransigence(R: Array, joint: Array, t: int) -> Array:
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
    return _mean(_diagonal(joint, tasks) - _diagonal(R, tasks))


def _diagonal(R: Any, tasks: list[int]) -> Any:
    """Return R[j, j] of some tasks, [..., n]."""
    return _of(R.diagonal(-1, -2, -1), tasks)


def _of(values: Any, tasks: list[int]) -> Any:
    """Select the values [..., n] of some tasks from `values` [..., T]."""
    return values[..., [j - 1 for j in tasks]]


def _mean(values: Any) -> Any:
    """Compute the mean [...] of `values` [..., n]; NaN, without numpy's warning, if there are none."""
    return values.mean(-1) if values.shape[-1] else np.full_like(values, np.nan, shape=values.shape[:-1])


@_accept_tensors
def summary(R: Array, t: int) -> dict[str, Array]:
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
    values |= {f"accuracy/task_{j:02d}": _of(R[..., t, :], [j])[..., 0] for j in tasks}
    if old := [j for j in tasks if j < t]:
        lost = _of(forgetting(R, t), old)
        values["average_forgetting"] = _mean(lost)
        values["backward_transfer"] = backward_transfer(R, t)
        values |= {f"forgetting/task_{j:02d}": lost[..., i] for i, j in enumerate(old)}
    if any(j > 1 for j in tasks) and not np.isnan(transfer := forward_transfer(R, t)).any():
        values["forward_transfer"] = transfer
    return values


Unlearning = dict[str, np.ndarray]
"""Measurements of a trial in which tasks were unlearned: name -> [..., T+1, T], rows and columns as R's.

- `before`, `after`: accuracy on every task before and after the requests that follow a task.
- `chance`: for unlearned tasks, 1 / number of active outputs, the accuracy of guessing.
- `distance`: distance of the backbone features to those of a model trained without the unlearned tasks.

Test data have `after` and `chance` only.
"""


@_accept_tensors
def unlearning(measured: dict[str, Array], t: int) -> dict[str, Array]:
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
    unlearned = [j for j in range(1, chance.shape[-1] + 1) if not np.isnan(chance[..., j - 1]).all()]
    if not unlearned:
        return {}
    accuracy = _of(after, unlearned)
    values = {
        "unlearning/unlearned_accuracy": _mean(accuracy),
        "unlearning/gap_to_chance": _mean(abs(accuracy - _of(chance, unlearned))),
    }
    values |= {f"unlearning/accuracy/task_{j:02d}": accuracy[..., i] for i, j in enumerate(unlearned)}
    if "distance" in measured and not np.isnan(distance := measured["distance"][..., t, :t]).all():
        values["unlearning/distance"] = _mean(distance)
        values |= {f"unlearning/distance/task_{j:02d}": distance[..., j - 1] for j in range(1, t + 1)}
    return values


@_accept_tensors
def over_seeds(values: dict[str, Array]) -> dict[str, float]:
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
    stacked = np.stack(list(values.values()))
    numbers = dict(zip(values, stacked.mean(-1).tolist(), strict=True))
    if stacked.shape[-1] > 1:
        numbers |= {f"{name}/std": std for name, std in zip(values, stacked.std(-1, ddof=1).tolist(), strict=True)}
    return numbers


@_accept_tensors
def last_rows(curve: Array) -> Array:
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
    epochs, members = (np.arange(n) for n in curve.shape[:2])
    last = np.where(np.isnan(curve).all(2), -1, epochs[:, None]).max(0)
    rows: Any = curve[last, members]
    return rows
