"""Fisher information: the importance of each parameter for a task (Kirkpatrick et al. 2017, after MacKay 1992).

Only the diagonal is computed. Per sample, F_i = E[(∂ -log p(y|x) / ∂θ_i)²], averaged over a task's samples; the
estimators differ in y:

    empirical   the sample's true label
    sampled     one label drawn from the model
    exact       every label, weighted by its probability
    batch       true labels, but of batch means: Σ_b B (∂ mean loss of batch b)² / Σ_b B. About 1/B of `empirical`.

Probabilities are over the active outputs. Penalties do not contribute, and the model does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clsearch.common.seeding import derive_generator
from clsearch.networks.mlp import LinearLayers, Network, Params, broadcast_members, is_head, mask_logits
from clsearch.tasks.samples import Batch, Samples, make_batches

CHUNK = 1024
"""Samples per pass that stores only a layer's inputs and output gradients."""

MAX_GRADIENT_ELEMENTS = 2**26
"""Elements per pass that stores each sample's whole gradient (256 MiB)."""

SumOfSquares = Callable[[Tensor, Tensor], Params]
"""(labels [M, B], weights [M, B]) -> Σ_b weight_b (∂ -log p(label_b | x_b))², for each parameter [M, ...]."""


@dataclass(frozen=True)
class Fisher:
    """An estimator of the Fisher information.

    Args:
        kind: empirical, sampled, exact or batch, see the module.
        most: Upper limit on the samples; None for all.
        batch_size: Samples per batch of `batch`.
    """

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
        """Estimate the Fisher information of each member's parameters, including the head.

        Args:
            network: Backbone and head over stacked members.
            params: Name -> [M, ...].
            samples: Training samples of the task.
            allowed: [C] mask of the active outputs; None for all.
            seeds: The seed of each member; selects labels and samples.
            origin: The task's original number; selects labels and samples.

        Returns:
            Name -> [M, ...].
        """
        orders = [
            torch.randperm(n, generator=derive_generator(seed, origin, 0, "fisher samples"))[: self.most]
            for seed, n in zip(seeds, samples.sizes, strict=True)
        ]
        draws = [
            torch.rand(len(order), generator=derive_generator(seed, origin, 0, "fisher labels"), dtype=torch.float64)
            for seed, order in zip(seeds, orders, strict=True)
        ]
        device, size = samples.rows.device, self._at_a_time(network, params)
        uniforms = torch.nn.utils.rnn.pad_sequence(draws, batch_first=True).to(device).split(size, dim=1)
        detached = {name: value.detach() for name, value in params.items()}
        total = {name: torch.zeros_like(value) for name, value in detached.items()}
        counted = torch.zeros(len(seeds), device=device)
        for batch, uniform in zip(make_batches(orders, size, device), uniforms, strict=True):
            inputs, labels = samples.take(batch.positions)
            if self.kind == "batch":
                squared = squared_batch_gradient(network, detached, inputs, labels, batch, allowed)
            else:
                logits, squares = squared_gradients(network, detached, inputs, allowed)
                squared = self._sum_squares(logits, squares, labels, uniform, batch, allowed)
            total = {name: value + squared[name] for name, value in total.items()}
            counted = counted + batch.sizes
        return {name: value / broadcast_members(counted, value) for name, value in total.items()}

    def _at_a_time(self, network: Network, params: Params) -> int:
        """Return the number of samples per pass; for `batch`, the batch size."""
        if self.kind == "batch":
            return self.batch_size
        if isinstance(network, LinearLayers):
            return CHUNK
        return max(
            1, min(network.eval_batch_size, MAX_GRADIENT_ELEMENTS // sum(value.numel() for value in params.values()))
        )

    def _sum_squares(
        self,
        logits: Tensor,
        squares: SumOfSquares,
        labels: Tensor,
        uniform: Tensor,
        batch: Batch,
        allowed: Tensor | None,
    ) -> Params:
        """Sum the squared gradients of a batch over the labels that the estimator uses."""
        counts = torch.ones_like(uniform) if batch.valid is None else batch.valid
        if self.kind == "empirical":
            return squares(labels, counts.to(logits.dtype))
        probabilities = logits.softmax(-1)
        if self.kind == "sampled":
            return squares(draw_labels(probabilities, uniform), counts.to(logits.dtype))
        total: Params = {}
        for label in range(logits.shape[-1]) if allowed is None else allowed.nonzero().flatten().tolist():
            weights = (probabilities[..., label] * counts).to(logits.dtype)
            squared = squares(torch.full_like(labels, label), weights)
            total = {name: value + total.get(name, 0) for name, value in squared.items()}
        return total


def draw_labels(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draw labels from probabilities, never one of probability 0.

    Args:
        probabilities: [M, B, C].
        uniform: [M, B] uniform numbers in [0, 1).

    Returns:
        [M, B].
    """
    sums = probabilities.double().cumsum(-1)
    return (sums <= uniform[..., None] * sums[..., -1:]).sum(-1)


def squared_gradients(
    network: Network, params: Params, inputs: Tensor, allowed: Tensor | None
) -> tuple[Tensor, SumOfSquares]:
    """Return the logits [M, B, C] of `inputs`, and the function that sums squared per-sample gradients there."""
    if isinstance(network, LinearLayers):
        return _squares_of_layers(network, params, inputs, allowed)
    return _squares_of_samples(network, params, inputs, allowed)


def _squares_of_layers(
    network: LinearLayers, params: Params, inputs: Tensor, allowed: Tensor | None
) -> tuple[Tensor, SumOfSquares]:
    """Sum squared per-sample gradients of linear layers, exactly, in one backward pass.

    The gradient of a weight is the outer product of the layer's input and the gradient at its output, so its square
    sums over samples as a product of squares.
    """
    first = next(iter(params))
    layers = network.layers(params | {first: params[first].clone().requires_grad_()}, inputs)
    logits = mask_logits(layers[-1].outputs, allowed)

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
    """Sum squared per-sample gradients of any network, from each sample's own gradient.

    On a CPU, computes one sample of all members after another; elsewhere uses vmap, which takes 1.1 to 3.3 times as
    long on a CPU (ResNet-18 and a CNN).
    """
    sum_squares = _squares_in_turn if inputs.device.type == "cpu" else _squares_together

    def squares(labels: Tensor, weights: Tensor) -> Params:
        return sum_squares(network, params, inputs, labels, weights, allowed)

    with torch.no_grad():
        return mask_logits(network.logits(params, network.features(params, inputs)), allowed), squares


def _squares_in_turn(
    network: Network, params: Params, inputs: Tensor, labels: Tensor, weights: Tensor, allowed: Tensor | None
) -> Params:
    """Sum the squared gradients, one sample of all members after another."""
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    for sample, label, weight in zip(inputs.split(1, 1), labels.unbind(1), weights.unbind(1), strict=True):
        logits = mask_logits(network.logits(leaves, network.features(leaves, sample)), allowed)
        loss = cross_entropy(logits.squeeze(1), label, reduction="sum")
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        for (name, value), gradient in zip(total.items(), gradients, strict=True):
            total[name] = value.addcmul(gradient.square(), broadcast_members(weight, gradient))
    return total


def _squares_together(
    network: Network, params: Params, inputs: Tensor, labels: Tensor, weights: Tensor, allowed: Tensor | None
) -> Params:
    """Sum the squared gradients of all samples and members at once, by vmap."""

    def loss(member: Params, sample: Tensor, label: Tensor) -> Tensor:
        stack = {name: value[None] for name, value in member.items()}
        logits = mask_logits(network.logits(stack, network.features(stack, sample[None, None])), allowed)
        return cross_entropy(logits[0], label[None])

    gradients_of = torch.func.vmap(torch.func.vmap(torch.func.grad(loss), (None, 0, 0)))

    gradients = gradients_of(params, inputs, labels)
    return {name: torch.einsum("mb...,mb->m...", g.square(), weights) for name, g in gradients.items()}


def squared_batch_gradient(
    network: Network, params: Params, inputs: Tensor, labels: Tensor, batch: Batch, allowed: Tensor | None
) -> Params:
    """Return B (∂ mean loss of the batch)², with each member's own batch size B."""
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    logits = mask_logits(network.logits(leaves, network.features(leaves, inputs)), allowed)
    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    gradients = torch.autograd.grad(batch.mean(losses).sum(), list(leaves.values()))
    return {
        name: broadcast_members(batch.sizes, gradient) * gradient.square()
        for name, gradient in zip(leaves, gradients, strict=True)
    }


def scale_fisher(fisher: Params, how: str) -> Params:
    """Scale the Fisher information for the penalty.

    Args:
        fisher: Name -> [M, ...], of the penalized parameters.
        how: none; per_parameter (divide by the number of backbone parameters); unit_trace (divide by each member's sum,
            so that it sums to 1; a sum of 0 stays 0).
    """
    if how == "per_parameter":
        return {name: value / count_backbone(fisher) for name, value in fisher.items()}
    if how == "unit_trace":
        trace = torch.stack([value.flatten(1).sum(1) for value in fisher.values()]).sum(0)
        trace = torch.where(trace > 0, trace, 1)
        return {name: value / broadcast_members(trace, value) for name, value in fisher.items()}
    return fisher


def count_backbone(params: Params) -> int:
    """Count a member's backbone parameters."""
    return sum(value[0].numel() for name, value in params.items() if not is_head(name))
