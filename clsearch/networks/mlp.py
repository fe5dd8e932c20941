"""Networks over M stacked members. Parameters are a dict of tensors [M, ...]; no class here is a torch module.

Layers are batched products (`torch.baddbmm`): one member costs as much as a plain loop, further members far less each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from clsearch.common.seeding import derive_generator

Params = dict[str, Tensor]

HEAD = "head"
"""Prefix of the head's parameters; all others belong to the backbone. The last axis of the head is the outputs."""


def is_head(name: str) -> bool:
    """Return True for a parameter of the head."""
    return name.startswith(f"{HEAD}.")


class Network(Protocol):
    """A backbone and a head, over stacked members.

    M is the number of members, B the batch size, D the elements of a flattened input, H the features, C the outputs.
    """

    @property
    def eval_batch_size(self) -> int:
        """Number of samples of each member in one pass without gradients, to limit memory."""
        ...

    def initial(self, seeds: Sequence[int], device: torch.device) -> Params:
        """Draw fresh parameters, each member's from its own seed.

        Args:
            seeds: One per member.
            device: Device of the parameters.

        Returns:
            Name -> [M, ...]; the head's names start with `head.`.
        """
        ...

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """Compute the backbone's features.

        Args:
            params: Name -> [M, ...].
            inputs: [M, B, D].

        Returns:
            [M, B, H].
        """
        ...

    def logits(self, params: Params, features: Tensor) -> Tensor:
        """Compute the head's outputs.

        Args:
            params: Name -> [M, ...].
            features: [M, B, H].

        Returns:
            [M, B, C].
        """
        ...


@dataclass(frozen=True)
class Layer:
    """A linear layer in a forward pass.

    Args:
        name: Prefix of its parameters: `<name>.weight`, `<name>.bias`.
        inputs: [M, B, in].
        outputs: [M, B, out], before the activation.
    """

    name: str
    inputs: Tensor
    outputs: Tensor


@runtime_checkable
class LinearLayers(Protocol):
    """A network whose parameters are all weights and biases of linear layers."""

    def layers(self, params: Params, inputs: Tensor) -> list[Layer]:
        """Run all layers on `inputs` [M, B, D], in order; the last is the head, its outputs are the logits."""
        ...


@dataclass(frozen=True)
class MLP:
    """Fully connected ReLU network with one linear head over all classes of the benchmark.

    Parameters: `backbone.<i>.weight` [M, in, out], `backbone.<i>.bias` [M, 1, out], `head.weight`, `head.bias`.

    Args:
        inputs: Elements of a flattened input, D.
        hidden: Widths of the hidden layers.
        outputs: Outputs of the head, C.
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int

    @property
    def eval_batch_size(self) -> int:
        return 4096

    def initial(self, seeds: Sequence[int], device: torch.device) -> Params:
        """Draw fresh parameters, uniform in ±1/sqrt(fan in) as torch.nn.Linear's; each member from its own seed."""
        members = [self._initial_member(seed) for seed in seeds]
        return {name: torch.stack([m[name] for m in members]).to(device) for name in members[0]}

    def _initial_member(self, seed: int) -> Params:
        generator = derive_generator(seed, 0, 0, "parameters")
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
        """Run all layers on `inputs` [M, B, D], in order; the last is the head, its outputs are the logits."""
        layers = []
        values = inputs
        for name in self._names():
            outputs = torch.baddbmm(params[f"{name}.bias"], values, params[f"{name}.weight"])
            layers.append(Layer(name, values, outputs))
            values = outputs.relu()
        return layers

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """Compute the backbone's features [M, B, H] of `inputs` [M, B, D]."""
        values = inputs
        for name in self._names()[:-1]:
            values = torch.baddbmm(params[f"{name}.bias"], values, params[f"{name}.weight"]).relu()
        return values

    def logits(self, params: Params, features: Tensor) -> Tensor:
        """Compute the head's outputs [M, B, C] of `features` [M, B, H]."""
        return torch.baddbmm(params[f"{HEAD}.bias"], features, params[f"{HEAD}.weight"])


def trainable_copy(params: Params) -> Params:
    """Copy parameters to leaf tensors that require gradients, for training steps to update in place."""
    return {name: value.detach().clone().requires_grad_() for name, value in params.items()}


def broadcast_members(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `values` [M] so that they broadcast over a tensor [M, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))


def mask_logits(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Return logits [M, B, C] with -inf where `allowed` ([C] or [M, B, C]) is False; None allows all outputs."""
    return logits if allowed is None else logits.masked_fill(~allowed, -math.inf)


def output_mask(active: Sequence[int], outputs: int, device: torch.device) -> Tensor | None:
    """Return the mask of the active outputs.

    Args:
        active: The active outputs.
        outputs: Outputs of the head, C.
        device: Device of the mask.

    Returns:
        [C], True at the active outputs; None if all are active, so that no masking is necessary.
    """
    if len(active) == outputs:
        return None
    mask = torch.zeros(outputs, dtype=torch.bool, device=device)
    mask[list(active)] = True
    return mask
