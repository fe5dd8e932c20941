"""A hand-written training loop for one seed, the baseline of `step.py`.

It does the same arithmetic without clsearch's code: one forward pass of the student, cached teacher outputs, the merged
quadratic penalty, batches by index, in-place SGD. It has no member axis, no masks, and logs only the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, relu

from clsearch.tasks.benchmark import Benchmark
from clsearch.training.state import TrialState
from clsearch.training.task_setup import Step
from clsearch.training.trial_setup import TrialSetup

Addition = Callable[[list[Tensor], Tensor, Tensor, Tensor], Tensor]
"""(parameters, features, logits, indices) -> a term of the loss."""


@dataclass
class Taught:
    """The memory of earlier tasks: per task, its classes, and the parameters after it as a list."""

    classes: list[list[int]]
    parameters: list[list[Tensor]]


def logits_of(parameters: Sequence[Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Compute features and logits; parameters: weight, bias, weight, bias, ..."""
    values = inputs
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        values = relu(torch.addmm(bias, values, weight))
    return values, torch.addmm(parameters[-1], values, parameters[-2])


def distilled(taught: Taught, inputs: Tensor, factor: float, temperature: float) -> Addition:
    """Make LwF's loss: the old logits of every old task's classes on the new task's inputs."""
    targets = torch.zeros(len(inputs), taught.parameters[0][-1].shape[-1])
    for classes, parameters in zip(taught.classes, taught.parameters, strict=True):
        targets[:, classes] = (logits_of(parameters, inputs)[1][:, classes] / temperature).softmax(1)
    old = torch.tensor(taught.classes)

    def addition(parameters: list[Tensor], features: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        warm = torch.addmm(parameters[-1].detach(), features, parameters[-2].detach()) / temperature
        agreement = (targets[rows] * warm).sum(1)
        return factor * (warm[:, old].logsumexp(2).sum(1) - agreement).mean()

    return addition


def held(importance: list[list[Tensor]], anchors: list[list[Tensor]], factor: float, p: float) -> Addition:
    """Make EWC's penalty: for p = 2 one square around the weighted mean, else a sum over all anchors."""
    total = [sum(each) for each in zip(*importance, strict=True)]
    centers = [
        sum(f * a for f, a in zip(fs, own, strict=True)) / torch.where(t > 0, t, 1)
        for t, fs, own in zip(total, zip(*importance, strict=True), zip(*anchors, strict=True), strict=True)
    ]

    def squares(parameters: list[Tensor], features: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        terms = [(f * (v - c).square()).sum() for v, c, f in zip(parameters, centers, total, strict=False)]
        return factor * torch.stack(terms).sum()

    def powers(parameters: list[Tensor], features: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        terms = [
            (f * (v - a).abs().pow(p)).sum()
            for fs, own in zip(importance, anchors, strict=True)
            for v, a, f in zip(parameters, own, fs, strict=False)
        ]
        return factor * torch.stack(terms).sum()

    return squares if p == 2 else powers


def minimal_loop(run: TrialSetup, state: TrialState, steps: Sequence[Step], count: int) -> Callable[[], object]:
    """Make work that runs `count` steps of the trial's next task for its one member, on the same batches."""
    config, task = run.config, run.benchmark.tasks[state.tasks_learned]
    names, classes = list(state.params), list(task.classes)
    samples = task.train
    inputs, labels = samples.inputs[samples.rows[0]].float() / samples.scale, samples.outputs[0, samples.labels]
    if samples.view is not None:
        raise ValueError("the hand-written loop does not support transforms")
    labels = labels[samples.rows[0]] - classes[0]
    additions = additions_of(run.benchmark, state, config, names, inputs)
    batches = [step.batch.positions[0] for step in steps]

    def work() -> object:
        parameters = [state.params[name][0].clone().requires_grad_() for name in names]
        total = torch.zeros(())
        for n in range(count):
            rows = batches[n % len(batches)]
            features, logits = logits_of(parameters, inputs[rows])
            loss = cross_entropy(logits[:, classes[0] : classes[-1] + 1], labels[rows])
            for addition in additions:
                loss = loss + addition(parameters, features, logits, rows)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for value, gradient in zip(parameters, gradients, strict=True):
                    value.sub_(gradient, alpha=config.learning_rate)
                total += loss
        return parameters, total

    return work


def additions_of(
    benchmark: Benchmark, state: TrialState, config: object, names: list[str], inputs: Tensor
) -> list[Addition]:
    """Make the loss terms of the trial's algorithm from the memory in its state."""
    tasks, memory, found = range(1, state.tasks_learned + 1), state.memory, []
    if any(name.startswith("teacher/") for name in memory):
        taught = Taught(
            [list(benchmark.tasks[k - 1].classes) for k in tasks],
            [[memory[f"teacher/{k}/{name}"][0] for name in names] for k in tasks],
        )
        factor, temperature = (getattr(config, f"distillation_{name}") for name in ("factor", "temperature"))
        found.append(distilled(taught, inputs, factor, temperature))
    if any(name.startswith("anchor/") for name in memory):
        kept = [name for name in names if f"anchor/1/{name}" in memory]
        importance, anchors = (
            [[memory[f"{what}/{k}/{name}"][0] for name in kept] for k in tasks] for what in ("importance", "anchor")
        )
        factor, p = (getattr(config, f"penalty_{name}") for name in ("factor", "p_norm"))
        found.append(held(importance, anchors, factor, p))
    return found
