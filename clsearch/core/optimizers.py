"""Optimizers as functions over dicts of tensors; each member has its own learning rate.

An update has no branch on a tensor's value and allocates new tensors, so a training step stays a pure function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from clsearch.core.networks import Params, per_member
from clsearch.core.parts import TrainingConfig

Moments = dict[str, Tensor]


class Optimizer(Protocol):
    """`initial` makes the moments; `update` returns new parameters and moments.

    Moments of a parameter are named `<kind>/<parameter>` and have its shape; `steps` is [M].
    drifts: whether it may move a parameter whose gradient is 0.
    """

    @property
    def drifts(self) -> bool: ...

    def initial(self, params: Params) -> Moments: ...

    def update(
        self, params: Params, gradients: Params, moments: Moments, learning_rate: Tensor
    ) -> tuple[Params, Moments]: ...


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

    def update(
        self, params: Params, gradients: Params, moments: Moments, learning_rate: Tensor
    ) -> tuple[Params, Moments]:
        new, velocities = {}, {}
        for name, value in params.items():
            step = gradients[name]
            if self.weight_decay:
                step = step.add(value, alpha=self.weight_decay)
            if self.momentum:
                step = step.add(moments[f"velocity/{name}"], alpha=self.momentum)
                velocities[f"velocity/{name}"] = step
            new[name] = torch.addcmul(value, per_member(learning_rate, value), step, value=-1)
        return new, velocities


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

    def update(
        self, params: Params, gradients: Params, moments: Moments, learning_rate: Tensor
    ) -> tuple[Params, Moments]:
        steps = moments["steps"] + 1
        # 1 - beta**steps would lose digits in single precision.
        size = learning_rate / -torch.expm1(steps * math.log(self.beta1))
        correction = (-torch.expm1(steps * math.log(self.beta2))).sqrt()
        new, kept = {}, {"steps": steps}
        for name, value in params.items():
            gradient = gradients[name]
            if self.weight_decay and self.decoupled:
                value = value * (1 - per_member(learning_rate, value) * self.weight_decay)
            elif self.weight_decay:
                gradient = gradient.add(value, alpha=self.weight_decay)
            mean = moments[f"mean/{name}"].lerp(gradient, 1 - self.beta1)
            square = (moments[f"square/{name}"] * self.beta2).addcmul(gradient, gradient, value=1 - self.beta2)
            denominator = (square.sqrt() / per_member(correction, value)).add(self.epsilon)
            new[name] = torch.addcdiv(value, per_member(-size, value) * mean, denominator)
            kept[f"mean/{name}"], kept[f"square/{name}"] = mean, square
        return new, kept


def build_optimizer(config: TrainingConfig) -> Optimizer:
    """The optimizer that a configuration names."""
    if config.optimizer == "sgd":
        return SGD(config.momentum, config.weight_decay)
    return Adam(config.weight_decay, decoupled=config.optimizer == "adamw")
