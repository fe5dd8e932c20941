"""Networks over M stacked members. Parameters are a dict of tensors [M, ...]; nothing is a torch module.

Written in batched products (`torch.baddbmm`): one member costs what a plain loop costs, more cost far less each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from clsearch.common.seeding import generator_of

Params = dict[str, Tensor]

HEAD = "head"
"""Prefix of the head's parameters; all others are the backbone's. The head's last axis is the outputs."""


def is_head(name: str) -> bool:
    """Whether a parameter belongs to the head."""
    return name.startswith(f"{HEAD}.")


class Network(Protocol):
    """A backbone and a head, over stacked members."""

    @property
    def at_once(self) -> int:
        """How many samples of each member a pass without gradients takes at a time, for memory's sake."""
        ...

    def initial(self, seeds: Sequence[int], device: torch.device) -> Params:
        """Fresh parameters; each member from its own seed."""
        ...

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """Backbone features [M, B, H] of `inputs` [M, B, D]."""
        ...

    def logits(self, params: Params, features: Tensor) -> Tensor:
        """The head's outputs [M, B, C]."""
        ...


@dataclass(frozen=True)
class Layer:
    """A linear layer as it ran: its name, inputs [M, B, in] and outputs before the activation [M, B, out]."""

    name: str
    inputs: Tensor
    outputs: Tensor


@runtime_checkable
class LinearLayers(Protocol):
    """A network whose parameters are all weights and biases of linear layers."""

    def layers(self, params: Params, inputs: Tensor) -> list[Layer]:
        """All layers as they run on `inputs` [M, B, D]; the last is the head and its outputs are the logits."""
        ...


@dataclass(frozen=True)
class MLP:
    """Fully connected ReLU network with one linear head over all classes of the benchmark.

    Parameters: `backbone.<i>.weight` [M, in, out], `backbone.<i>.bias` [M, 1, out], `head.weight`, `head.bias`.
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int

    @property
    def at_once(self) -> int:
        return 4096

    def initial(self, seeds: Sequence[int], device: torch.device) -> Params:
        """Fresh parameters, uniform in ±1/sqrt(fan in) as torch.nn.Linear's are; each member from its own seed."""
        members = [self._initial_member(seed) for seed in seeds]
        return {name: torch.stack([m[name] for m in members]).to(device) for name in members[0]}

    def _initial_member(self, seed: int) -> Params:
        generator = generator_of(seed, 0, 0, "parameters")
        widths = (self.inputs, *self.hidden, self.outputs)
        params: Params = {}
        for name, fan_in, fan_out in zip(self._names(), widths, widths[1:], strict=False):
            bound = 1 / math.sqrt(fan_in)
            params[f"{name}.weight"] = torch.empty(fan_in, fan_out).uniform_(-bound, bound, generator=generator)
            params[f"{name}.bias"] = torch.empty(1, fan_out).uniform_(-bound, bound, generator=generator)
        return params

    def _names(self) -> list[str]:
        return [f"backbone.{i}" for i in range(len(self.hidden))] + [HEAD]

    def layers(self, params: Params, inputs: Tensor) -> list[Layer]:
        """All layers as they run on `inputs` [M, B, D]; the last is the head and its outputs are the logits."""
        ran = []
        values = inputs
        for name in self._names():
            outputs = torch.baddbmm(params[f"{name}.bias"], values, params[f"{name}.weight"])
            ran.append(Layer(name, values, outputs))
            values = outputs.relu()
        return ran

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """Backbone features [M, B, H] of `inputs` [M, B, D]."""
        values = inputs
        for name in self._names()[:-1]:
            values = torch.baddbmm(params[f"{name}.bias"], values, params[f"{name}.weight"]).relu()
        return values

    def logits(self, params: Params, features: Tensor) -> Tensor:
        """The head's outputs [M, B, C]."""
        return torch.baddbmm(params[f"{HEAD}.bias"], features, params[f"{HEAD}.weight"])


def leaves_of(params: Params) -> Params:
    """A copy of parameters that training steps may move."""
    return {name: value.detach().clone().requires_grad_() for name, value in params.items()}


def per_member(values: Tensor, like: Tensor) -> Tensor:
    """`values` [M] shaped to multiply a tensor [M, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))


def restricted(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Logits [M, B, C] with -inf where `allowed` ([C] or [M, B, C]) is False; None allows all."""
    return logits if allowed is None else logits.masked_fill(~allowed, -math.inf)


def allowed_mask(answers: Sequence[int], outputs: int, device: torch.device) -> Tensor | None:
    """[C] True at `answers`; None where that is every output, so that nothing is masked."""
    if len(answers) == outputs:
        return None
    mask = torch.zeros(outputs, dtype=torch.bool, device=device)
    mask[list(answers)] = True
    return mask
