"""Estimates of how much each parameter matters to a task."""

from __future__ import annotations

import torch
from torch import Tensor

from clsearch.core.benchmarks import Samples
from clsearch.core.networks import MLP, Params, restricted


def empirical_fisher(network: MLP, params: Params, samples: Samples, allowed: Tensor | None) -> Params:
    """Diagonal of the empirical Fisher information (Kirkpatrick et al. 2017; labels as in the data).

    The mean over samples of the squared gradient of each sample's own cross-entropy, over the outputs `allowed`
    [C]. The gradient of a linear layer's weight is the outer product of its input and the gradient at its output,
    so its square sums over samples as a product of squares: exact, in one backward pass.

    Returns: one tensor [M, ...] per parameter, head included.
    """
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    detached = {name: value.detach() for name, value in params.items()}
    first = next(iter(detached))
    for positions in samples.chunks():
        inputs, labels = samples.batch(positions)
        layers = network.layers(detached | {first: detached[first].clone().requires_grad_()}, inputs)
        logits = restricted(layers[-1].outputs, allowed)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        gradients = torch.autograd.grad(loss, [layer.outputs for layer in layers])
        for layer, gradient in zip(layers, gradients, strict=True):
            squares = gradient.square()
            total[f"{layer.name}.weight"].baddbmm_(layer.inputs.detach().square().mT, squares)
            total[f"{layer.name}.bias"] += squares.sum(1, keepdim=True)
    return {name: value / len(samples) for name, value in total.items()}
