"""Optimizers as functions over dicts of tensors; each member has its own learning rate.

An update is in place, as torch.optim's are, and has no branch on a tensor's value. All parameters go through one call
per operation (torch's foreach functions, which torch.optim is made of): a small network's update takes half the time of
a loop over its parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from clsearch.config.sections import TrainingConfig
from clsearch.networks.mlp import Params, per_member

Moments = dict[str, Tensor]


class Optimizer(Protocol):
    """`initial` makes the moments; `update` moves parameters and moments.

    Moments of a parameter are named `<kind>/<parameter>` and have its shape; `steps` is [M].
    drifts: whether it may move a parameter whose gradient is 0.
    """

    @property
    def drifts(self) -> bool: ...

    def initial(self, params: Params) -> Moments: ...

    def update(self, params: Params, gradients: Params, moments: Moments, learning_rate: Tensor) -> None: ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with heavy-ball momentum, as torch.optim.SGD (weight decay is L2)."""

    momentum: float
    weight_decay: float

    @property
    def drifts(self) -> bool:
        return bool(self.momentum or self.weight_decay)

    def initial(self, params: Params) -> Moments:
        if self.momentum == 0:
            return {}
        return {f"velocity/{name}": torch.zeros_like(value) for name, value in params.items()}

    def update(self, params: Params, gradients: Params, moments: Moments, learning_rate: Tensor) -> None:
        values, steps = list(params.values()), [gradients[name] for name in params]
        if self.weight_decay:
            steps = [*torch._foreach_add(steps, values, alpha=self.weight_decay)]
        if self.momentum:
            velocities = _kept(moments, "velocity", params)
            torch._foreach_mul_(velocities, self.momentum)
            torch._foreach_add_(velocities, steps)
            steps = velocities
        torch._foreach_addcmul_(values, _rates(learning_rate, values), steps, -1)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015), or AdamW (Loshchilov & Hutter 2019) where weight decay is decoupled."""

    weight_decay: float
    decoupled: bool
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    @property
    def drifts(self) -> bool:
        return True

    def initial(self, params: Params) -> Moments:
        first = next(iter(params.values()))
        zeros = {f"{kind}/{n}": torch.zeros_like(v) for kind in ("mean", "square") for n, v in params.items()}
        return zeros | {"steps": torch.zeros(len(first), device=first.device)}

    def update(self, params: Params, gradients: Params, moments: Moments, learning_rate: Tensor) -> None:
        moved = moments["steps"].add_(1)
        # 1 - beta**steps would lose digits in single precision.
        size = learning_rate / -torch.expm1(moved * math.log(self.beta1))
        correction = (-torch.expm1(moved * math.log(self.beta2))).sqrt()
        values, found = list(params.values()), [gradients[name] for name in params]
        if self.weight_decay and self.decoupled:
            torch._foreach_mul_(values, _rates(1 - learning_rate * self.weight_decay, values))
        elif self.weight_decay:
            found = [*torch._foreach_add(found, values, alpha=self.weight_decay)]
        means, squares = _kept(moments, "mean", params), _kept(moments, "square", params)
        torch._foreach_lerp_(means, found, 1 - self.beta1)
        torch._foreach_mul_(squares, self.beta2)
        torch._foreach_addcmul_(squares, found, found, 1 - self.beta2)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, _rates(correction, values))
        torch._foreach_add_(denominators, self.epsilon)
        steps = torch._foreach_mul(means, _rates(-size, values))
        torch._foreach_addcdiv_(values, steps, denominators)


def _kept(moments: Moments, kind: str, params: Params) -> list[Tensor]:
    return [moments[f"{kind}/{name}"] for name in params]


def _rates(numbers: Tensor, values: list[Tensor]) -> list[Tensor]:
    """`numbers` [M], shaped to multiply each of `values` [M, ...]."""
    shaped = {value.dim(): per_member(numbers, value) for value in values}
    return [shaped[value.dim()] for value in values]


def build_optimizer(config: TrainingConfig) -> Optimizer:
    """The optimizer that a configuration names."""
    if config.optimizer == "sgd":
        return SGD(config.momentum, config.weight_decay)
    return Adam(config.weight_decay, decoupled=config.optimizer == "adamw")
