"""Fisher information: how much each parameter matters to a task (Kirkpatrick et al. 2017, after MacKay 1992).

Diagonals only. Per sample, F_i = E[(∂ -log p(y|x) / ∂θ_i)²], mean over a task's samples; the estimators differ in where
y comes from:

    empirical   the sample's true label
    sampled     one label drawn from the model
    exact       every label, weighted by its probability
    batch       true labels, but of batch means: Σ_b B (∂ mean loss of batch b)² / Σ_b B. About 1/B of `empirical`.

Probabilities are over the outputs that may be answered. Measured without the penalty; nothing in the model changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clsearch.common.seeding import generator_of
from clsearch.networks.mlp import LinearLayers, Network, Params, is_head, per_member, restricted
from clsearch.tasks.samples import Batch, Samples, batches_of

CHUNK = 1024
"""Samples at a time where only a layer's inputs and output gradients are held."""

GRADIENTS = 2**26
"""Numbers at a time where each sample's whole gradient is held (256 MiB)."""

SumOfSquares = Callable[[Tensor, Tensor], Params]
"""(labels [M, B], weights [M, B]) -> Σ_b weight_b (∂ -log p(label_b | x_b))², for each parameter [M, ...]."""


@dataclass(frozen=True)
class Fisher:
    """An estimator. kind: see above. most: a cap on the samples, None for all. batch_size: of `batch`."""

    kind: str
    most: int | None
    batch_size: int

    def __call__(
        self,
        network: Network,
        params: Params,
        samples: Samples,
        allowed: Tensor | None,
        seeds: tuple[int, ...],
        origin: int,
    ) -> Params:
        """Fisher information of each member's parameters, head included: one tensor [M, ...] per parameter.

        allowed: [C] outputs that may be answered. seeds, origin (the task's): what random choices (labels, a cap)
        derive from.
        """
        orders = [
            torch.randperm(n, generator=generator_of(seed, origin, 0, "fisher samples"))[: self.most]
            for seed, n in zip(seeds, samples.sizes, strict=True)
        ]
        draws = [
            torch.rand(len(order), generator=generator_of(seed, origin, 0, "fisher labels"), dtype=torch.float64)
            for seed, order in zip(seeds, orders, strict=True)
        ]
        device, size = samples.rows.device, self._at_a_time(network, params)
        uniforms = torch.nn.utils.rnn.pad_sequence(draws, batch_first=True).to(device).split(size, dim=1)
        detached = {name: value.detach() for name, value in params.items()}
        total = {name: torch.zeros_like(value) for name, value in detached.items()}
        counted = torch.zeros(len(seeds), device=device)
        for batch, uniform in zip(batches_of(orders, size, device), uniforms, strict=True):
            inputs, labels = samples.take(batch.positions)
            if self.kind == "batch":
                found = squared_batch_gradient(network, detached, inputs, labels, batch, allowed)
            else:
                logits, squares = squares_of(network, detached, inputs, allowed)
                found = self._summed(logits, squares, labels, uniform, batch, allowed)
            total = {name: value + found[name] for name, value in total.items()}
            counted = counted + batch.sizes
        return {name: value / per_member(counted, value) for name, value in total.items()}

    def _at_a_time(self, network: Network, params: Params) -> int:
        """Samples in a pass; of `batch`, in a batch."""
        if self.kind == "batch":
            return self.batch_size
        if isinstance(network, LinearLayers):
            return CHUNK
        return max(1, min(network.at_once, GRADIENTS // sum(value.numel() for value in params.values())))

    def _summed(
        self,
        logits: Tensor,
        squares: SumOfSquares,
        labels: Tensor,
        uniform: Tensor,
        batch: Batch,
        allowed: Tensor | None,
    ) -> Params:
        counts = torch.ones_like(uniform) if batch.valid is None else batch.valid
        if self.kind == "empirical":
            return squares(labels, counts.to(logits.dtype))
        probabilities = logits.softmax(-1)
        if self.kind == "sampled":
            return squares(drawn(probabilities, uniform), counts.to(logits.dtype))
        total: Params = {}
        for label in range(logits.shape[-1]) if allowed is None else allowed.nonzero().flatten().tolist():
            weights = (probabilities[..., label] * counts).to(logits.dtype)
            found = squares(torch.full_like(labels, label), weights)
            total = {name: value + total.get(name, 0) for name, value in found.items()}
        return total


def drawn(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Labels [M, B] drawn from probabilities [M, B, C] by uniform numbers [M, B] in [0, 1); none of probability 0."""
    sums = probabilities.double().cumsum(-1)
    return (sums <= uniform[..., None] * sums[..., -1:]).sum(-1)


def squares_of(network: Network, params: Params, inputs: Tensor, allowed: Tensor | None) -> tuple[Tensor, SumOfSquares]:
    """Logits [M, B, C] of `inputs`, and what sums squared per-sample gradients there."""
    if isinstance(network, LinearLayers):
        return _squares_of_layers(network, params, inputs, allowed)
    return _squares_of_samples(network, params, inputs, allowed)


def _squares_of_layers(
    network: LinearLayers, params: Params, inputs: Tensor, allowed: Tensor | None
) -> tuple[Tensor, SumOfSquares]:
    """The gradient of a linear layer's weight is the outer product of its input and the gradient at its output, so its
    square sums over samples as a product of squares: exact, in one backward pass.
    """
    first = next(iter(params))
    layers = network.layers(params | {first: params[first].clone().requires_grad_()}, inputs)
    logits = restricted(layers[-1].outputs, allowed)

    def squares(labels: Tensor, weights: Tensor) -> Params:
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        gradients = torch.autograd.grad(loss, [layer.outputs for layer in layers], retain_graph=True)
        total = {}
        for layer, gradient in zip(layers, gradients, strict=True):
            weighted = gradient.square() * weights[..., None]
            total[f"{layer.name}.weight"] = layer.inputs.detach().square().mT @ weighted
            total[f"{layer.name}.bias"] = weighted.sum(1, keepdim=True)
        return total

    return logits.detach(), squares


def _squares_of_samples(
    network: Network, params: Params, inputs: Tensor, allowed: Tensor | None
) -> tuple[Tensor, SumOfSquares]:
    """For any network: each sample's own gradient. On a CPU one sample of all members after the other, elsewhere by
    vmap, which takes 1.1 to 3.3 times as long on a CPU (ResNet-18 and a CNN).
    """
    own = _squares_in_turn if inputs.device.type == "cpu" else _squares_together

    def squares(labels: Tensor, weights: Tensor) -> Params:
        return own(network, params, inputs, labels, weights, allowed)

    with torch.no_grad():
        return restricted(network.logits(params, network.features(params, inputs)), allowed), squares


def _squares_in_turn(
    network: Network, params: Params, inputs: Tensor, labels: Tensor, weights: Tensor, allowed: Tensor | None
) -> Params:
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    for sample, label, weight in zip(inputs.split(1, 1), labels.unbind(1), weights.unbind(1), strict=True):
        logits = restricted(network.logits(leaves, network.features(leaves, sample)), allowed)
        loss = cross_entropy(logits.squeeze(1), label, reduction="sum")
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        for (name, value), gradient in zip(total.items(), gradients, strict=True):
            total[name] = value.addcmul(gradient.square(), per_member(weight, gradient))
    return total


def _squares_together(
    network: Network, params: Params, inputs: Tensor, labels: Tensor, weights: Tensor, allowed: Tensor | None
) -> Params:
    def loss(own: Params, sample: Tensor, label: Tensor) -> Tensor:
        member = {name: value[None] for name, value in own.items()}
        logits = restricted(network.logits(member, network.features(member, sample[None, None])), allowed)
        return cross_entropy(logits[0], label[None])

    gradients_of = torch.func.vmap(torch.func.vmap(torch.func.grad(loss), (None, 0, 0)))

    gradients = gradients_of(params, inputs, labels)
    return {name: torch.einsum("mb...,mb->m...", g.square(), weights) for name, g in gradients.items()}


def squared_batch_gradient(
    network: Network, params: Params, inputs: Tensor, labels: Tensor, batch: Batch, allowed: Tensor | None
) -> Params:
    """B (∂ mean loss of the batch)², for each member's own batch size B."""
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    logits = restricted(network.logits(leaves, network.features(leaves, inputs)), allowed)
    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    gradients = torch.autograd.grad(batch.mean(losses).sum(), list(leaves.values()))
    return {
        name: per_member(batch.sizes, gradient) * gradient.square()
        for name, gradient in zip(leaves, gradients, strict=True)
    }


def scaled(fisher: Params, how: str) -> Params:
    """Fisher information as it enters the penalty, [M, ...] per penalised parameter.

    how: none; per_parameter (divided by the number of backbone parameters); unit_trace (divided by each member's sum,
    so that it sums to 1; one that is 0 everywhere stays 0).
    """
    if how == "per_parameter":
        return {name: value / backbone_size(fisher) for name, value in fisher.items()}
    if how == "unit_trace":
        trace = torch.stack([value.flatten(1).sum(1) for value in fisher.values()]).sum(0)
        trace = torch.where(trace > 0, trace, 1)
        return {name: value / per_member(trace, value) for name, value in fisher.items()}
    return fisher


def backbone_size(params: Params) -> int:
    """Number of a member's backbone parameters."""
    return sum(value[0].numel() for name, value in params.items() if not is_head(name))
