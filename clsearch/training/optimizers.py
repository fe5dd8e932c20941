"""Optimizers as functions over dicts of tensors; each member has its own learning rate.

Other numbers are plain where all members share them, which is fastest, and tensors [M] where members differ.

Updates are in place, as in torch.optim, and do not branch on a tensor's value. Each operation is one call for all
parameters (torch's foreach functions, which torch.optim uses): for a small network this takes half the time of a loop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from clsearch.config.sections import TrainingConfig
from clsearch.networks.mlp import Params, broadcast_members

Moments = dict[str, Tensor]
"""Optimizer state: `<kind>/<parameter>` -> a tensor of the parameter's shape; Adam's `steps` is [M]."""


Number: TypeAlias = "float | Tensor"
"""A number that all members share, or [M]."""


class Optimizer(Protocol):
    """Initializes moments and updates parameters."""

    @property
    def drifts(self) -> bool:
        """True if an update can change a parameter whose gradient is 0."""
        ...

    def initial(self, params: Params) -> Moments:
        """Return the moments before the first step. params: name -> [M, ...]."""
        ...

    def update(self, params: Params, gradients: Params, moments: Moments, learning_rate: Tensor) -> None:
        """Update parameters and moments in place.

        Args:
            params: Name -> [M, ...].
            gradients: Name -> [M, ...].
            moments: As `initial` or the previous step left them.
            learning_rate: [M].
        """
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with heavy-ball momentum, as torch.optim.SGD.

    Args:
        momentum: Momentum factor; 0 for none, for all members.
        weight_decay: L2 factor; 0 for none.
    """

    momentum: Number
    weight_decay: Number

    @property
    def drifts(self) -> bool:
        return _acts(self.momentum) or _acts(self.weight_decay)

    def initial(self, params: Params) -> Moments:
        if not _acts(self.momentum):
            return {}
        return {f"velocity/{name}": torch.zeros_like(value) for name, value in params.items()}

    def update(self, params: Params, gradients: Params, moments: Moments, learning_rate: Tensor) -> None:
        values, steps = list(params.values()), [gradients[name] for name in params]
        if _acts(self.weight_decay):
            steps = _add_scaled(steps, values, self.weight_decay)
        if _acts(self.momentum):
            velocities = _select_moments(moments, "velocity", params)
            momentum = self.momentum
            torch._foreach_mul_(velocities, _rates(momentum, velocities) if isinstance(momentum, Tensor) else momentum)
            torch._foreach_add_(velocities, steps)
            steps = velocities
        torch._foreach_addcmul_(values, _rates(learning_rate, values), steps, -1)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015), or AdamW (Loshchilov & Hutter 2019) with decoupled weight decay.

    Args:
        weight_decay: Factor of the weight decay; 0 for none.
        decoupled: Decoupled weight decay instead of L2.
        beta1: Decay of the mean of gradients.
        beta2: Decay of the mean of squared gradients.
        epsilon: Added to the denominator.
    """

    weight_decay: Number
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
        count = moments["steps"].add_(1)
        # 1 - beta**steps would lose digits in single precision.
        size = learning_rate / -torch.expm1(count * math.log(self.beta1))
        correction = (-torch.expm1(count * math.log(self.beta2))).sqrt()
        values, slopes = list(params.values()), [gradients[name] for name in params]
        if _acts(self.weight_decay) and self.decoupled:
            torch._foreach_mul_(values, _rates(1 - learning_rate * self.weight_decay, values))
        elif _acts(self.weight_decay):
            slopes = _add_scaled(slopes, values, self.weight_decay)
        means, squares = _select_moments(moments, "mean", params), _select_moments(moments, "square", params)
        torch._foreach_lerp_(means, slopes, 1 - self.beta1)
        torch._foreach_mul_(squares, self.beta2)
        torch._foreach_addcmul_(squares, slopes, slopes, 1 - self.beta2)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, _rates(correction, values))
        torch._foreach_add_(denominators, self.epsilon)
        steps = torch._foreach_mul(means, _rates(-size, values))
        torch._foreach_addcdiv_(values, steps, denominators)


def _acts(number: Number) -> bool:
    """Return True unless a number is 0 for all members."""
    return isinstance(number, Tensor) or number != 0


def _add_scaled(steps: list[Tensor], values: list[Tensor], factor: Number) -> list[Tensor]:
    """Return steps + factor * values."""
    if isinstance(factor, Tensor):
        return [*torch._foreach_addcmul(steps, values, _rates(factor, values))]
    return [*torch._foreach_add(steps, values, alpha=factor)]


def _select_moments(moments: Moments, kind: str, params: Params) -> list[Tensor]:
    """Return the moments of one kind, in the order of the parameters."""
    return [moments[f"{kind}/{name}"] for name in params]


def _rates(numbers: Tensor, values: list[Tensor]) -> list[Tensor]:
    """Reshape `numbers` [M] to broadcast over each of `values` [M, ...]."""
    shaped = {value.dim(): broadcast_members(numbers, value) for value in values}
    return [shaped[value.dim()] for value in values]


def build_optimizer(config: TrainingConfig, differing: Mapping[str, Tensor] | None = None) -> Optimizer:
    """Build the optimizer of a configuration.

    Args:
        config: The configuration.
        differing: Number -> [M], of those in which members differ.
    """
    differing = differing or {}
    weight_decay = differing.get("weight_decay", config.weight_decay)
    if config.optimizer == "sgd":
        return SGD(differing.get("momentum", config.momentum), weight_decay)
    return Adam(weight_decay, decoupled=config.optimizer == "adamw")
