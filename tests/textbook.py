"""A second implementation of the methods, for comparison: written from METHODS.md and the papers, slow on purpose.

Double precision, one member at a time, loops over samples, tasks, teachers and parameters. Imports nothing of clsearch,
so that no mistake can be in both. A sample is (inputs [D], source class); tasks count from 1; a network is a dict
`backbone.<i>.weight` [in, out], `backbone.<i>.bias` [out], `head.weight`, `head.bias`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Theta = dict[str, Tensor]
Sample = tuple[Tensor, int]


# --- scenarios (van de Ven et al. 2022) ---


@dataclass
class Course:
    """scenario: task, domain or class. groups: source classes of each task, in the order of their outputs."""

    scenario: str
    groups: list[list[int]]

    def output(self, t: int, source_class: int) -> int:
        """Output of the head that stands for a source class in task t."""
        place = self.groups[t - 1].index(source_class)
        if self.scenario == "domain":
            return place
        for group in self.groups[: t - 1]:
            place += len(group)
        return place

    def classes(self, t: int) -> list[int]:
        return [self.output(t, c) for c in self.groups[t - 1]]

    def seen(self, t: int) -> list[int]:
        classes: list[int] = []
        for k in range(1, t + 1):
            for c in self.classes(k):
                if c not in classes:
                    classes.append(c)
        return classes

    def active_outputs(self, i: int, k: int) -> list[int]:
        """Classes that may be answered for task k after learning task i."""
        if self.scenario == "class":
            return self.seen(i)
        return self.classes(k)


# --- network ---


def layer(theta: Theta, name: str, x: Tensor) -> Tensor:
    return x @ theta[f"{name}.weight"] + theta[f"{name}.bias"]


def features(theta: Theta, x: Tensor) -> Tensor:
    """Of one input [D]."""
    i = 0
    while f"backbone.{i}.weight" in theta:
        x = layer(theta, f"backbone.{i}", x)
        x = torch.where(x > 0, x, 0)
        i += 1
    return x


def logits(theta: Theta, x: Tensor) -> Tensor:
    return layer(theta, "head", features(theta, x))


def probability(z: Tensor, c: int, classes: list[int], temperature: float = 1.0) -> Tensor:
    """Softmax over `classes` alone."""
    total = 0.0
    for other in classes:
        total = total + torch.exp(z[other] / temperature)
    return torch.exp(z[c] / temperature) / total


def surprise(theta: Theta, x: Tensor, c: int, classes: list[int]) -> Tensor:
    return -torch.log(probability(logits(theta, x), c, classes))


def gradient(loss: Tensor, theta: Theta) -> Theta:
    found = torch.autograd.grad(loss, list(theta.values()), materialize_grads=True)
    return dict(zip(theta, found, strict=True))


def ready(theta: Theta) -> Theta:
    """A copy that gradients may be asked for."""
    return {name: value.detach().clone().requires_grad_() for name, value in theta.items()}


# --- Learning without Forgetting (Li & Hoiem 2017) ---


@dataclass
class LwF:
    factor: float = 1.0
    temperature: float = 2.0
    teachers: str = "per_task"
    train_head: bool = True
    distance: str = "cross_entropy"
    temperature_scaling: str = "none"
    snapshots: dict[int, Theta] = field(default_factory=dict)

    def remember(self, course: Course, t: int, theta: Theta, samples: list[Sample]) -> None:
        self.snapshots[t] = {name: value.detach().clone() for name, value in theta.items()}

    def terms(self, course: Course, t: int) -> list[tuple[int, list[int]]]:
        """For each term of the sum over old tasks: the task after which its teacher was taken, and for which classes
        it speaks.
        """
        if self.teachers == "last" and course.scenario == "class":
            return [(t - 1, course.seen(t - 1))]
        found = []
        for k in range(1, t):
            teacher = t - 1 if self.teachers == "last" else k
            found.append((teacher, course.seen(k) if course.scenario == "class" else course.classes(k)))
        return found

    def penalty(self, course: Course, t: int, theta: Theta, batch: list[Sample]) -> Tensor:
        if not self.train_head:
            theta = {name: v.detach() if name.startswith("head") else v for name, v in theta.items()}
        total = torch.zeros((), dtype=torch.float64)
        for teacher, classes in self.terms(course, t):
            for x, _ in batch:
                u, z = logits(self.snapshots[teacher], x), logits(theta, x)
                for c in classes:
                    q = probability(u, c, classes, self.temperature)
                    p = probability(z, c, classes, self.temperature)
                    if self.distance == "cross_entropy":
                        term = -q * torch.log(p)
                    elif self.distance == "kl":
                        term = q * (torch.log(q) - torch.log(p))
                    else:
                        term = (z[c] - u[c]) ** 2 / len(classes)
                    total = total + term / len(batch)
        if self.temperature_scaling == "squared":
            total = total * self.temperature**2
        return self.factor * total


# --- elastic weight consolidation (Kirkpatrick et al. 2017) ---


@dataclass
class EWC:
    """labels: the labels drawn for `fisher` = sampled, by task, one for each of the samples it is measured on."""

    factor: float = 1.0
    p: float = 2.0
    fisher: str = "empirical"
    fisher_scale: str = "none"
    batch_size: int = 1
    average_over_tasks: bool = False
    anchors: str = "separate"
    gamma: float = 1.0
    measured_on: dict[int, list[int]] = field(default_factory=dict)
    labels: dict[int, list[int]] = field(default_factory=dict)
    importance: list[Theta] = field(default_factory=list)
    anchor: list[Theta] = field(default_factory=list)

    def information(self, course: Course, t: int, theta: Theta, samples: list[Sample]) -> Theta:
        theta = ready(theta)
        classes = course.active_outputs(t, t)
        used = [samples[i] for i in self.measured_on[t]]
        total = {name: torch.zeros_like(value) for name, value in theta.items()}
        if self.fisher == "batch":
            while used:
                batch, used = used[: self.batch_size], used[self.batch_size :]
                mean = 0.0
                for x, c in batch:
                    mean = mean + surprise(theta, x, course.output(t, c), classes) / len(batch)
                for name, slope in gradient(mean, theta).items():
                    total[name] = total[name] + len(batch) * slope**2
        else:
            for number, (x, c) in enumerate(used):
                if self.fisher == "empirical":
                    weights = {course.output(t, c): 1.0}
                elif self.fisher == "sampled":
                    weights = {self.labels[t][number]: 1.0}
                else:
                    z = logits(theta, x).detach()
                    weights = {y: probability(z, y, classes).item() for y in classes}
                for y, weight in weights.items():
                    for name, slope in gradient(surprise(theta, x, y, classes), theta).items():
                        total[name] = total[name] + weight * slope**2
        return {name: value.detach() / len(self.measured_on[t]) for name, value in total.items()}

    def remember(self, course: Course, t: int, theta: Theta, samples: list[Sample]) -> None:
        new = {}
        for name, value in self.information(course, t, theta, samples).items():
            if course.scenario != "task" or not name.startswith("head"):
                new[name] = value
        if self.fisher_scale == "per_parameter":
            size = sum(value.numel() for name, value in theta.items() if name.startswith("backbone"))
            new = {name: value / size for name, value in new.items()}
        elif self.fisher_scale == "unit_trace":
            trace = sum(value.sum() for value in new.values())
            new = {name: value / trace for name, value in new.items()}
        here = {name: theta[name].detach().clone() for name in new}
        if self.anchors == "online":
            if self.importance:
                new = {name: self.gamma * self.importance[0][name] + value for name, value in new.items()}
            self.importance, self.anchor = [new], [here]
        else:
            self.importance.append(new)
            self.anchor.append(here)

    def penalty(self, course: Course, t: int, theta: Theta, batch: list[Sample]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for importance, anchor in zip(self.importance, self.anchor, strict=True):
            for name in importance:
                distance = (theta[name] - anchor[name]).abs()
                total = total + (importance[name] * distance**self.p).sum()
        if self.average_over_tasks:
            total = total / t
        return self.factor * total


# --- optimizers ---


@dataclass
class SGD:
    rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    velocity: Theta = field(default_factory=dict)

    def reset(self) -> None:
        self.velocity = {}

    def step(self, theta: Theta, slopes: Theta, trainable_mask: dict[str, Tensor]) -> Theta:
        new = {}
        for name, value in theta.items():
            slope = slopes[name] + self.weight_decay * value
            old = self.velocity.get(name, torch.zeros_like(value))
            self.velocity[name] = torch.where(trainable_mask[name], self.momentum * old + slope, old)
            new[name] = torch.where(trainable_mask[name], value - self.rate * self.velocity[name], value)
        return new


@dataclass
class Adam:
    rate: float
    weight_decay: float = 0.0
    decoupled: bool = False
    steps: int = 0
    mean: Theta = field(default_factory=dict)
    square: Theta = field(default_factory=dict)

    def reset(self) -> None:
        self.steps, self.mean, self.square = 0, {}, {}

    def step(self, theta: Theta, slopes: Theta, trainable_mask: dict[str, Tensor]) -> Theta:
        self.steps += 1
        new = {}
        for name, value in theta.items():
            slope = slopes[name] if self.decoupled else slopes[name] + self.weight_decay * value
            old_mean = self.mean.get(name, torch.zeros_like(value))
            old_square = self.square.get(name, torch.zeros_like(value))
            mean = 0.9 * old_mean + 0.1 * slope
            square = 0.999 * old_square + 0.001 * slope**2
            corrected_mean, corrected_square = mean / (1 - 0.9**self.steps), square / (1 - 0.999**self.steps)
            moved = value - self.rate * corrected_mean / (torch.sqrt(corrected_square) + 1e-8)
            if self.decoupled:
                moved = moved - self.rate * self.weight_decay * value
            self.mean[name] = torch.where(trainable_mask[name], mean, old_mean)
            self.square[name] = torch.where(trainable_mask[name], square, old_square)
            new[name] = torch.where(trainable_mask[name], moved, value)
        return new


# --- how training data and the learning rate change ---


def seen_through(x: Tensor, shape: tuple[int, int, int], down: int, right: int, mirrored: bool) -> Tensor:
    """What a window of the image's own size sees once it is moved down and right, 0 where there is no image; mirrored
    where that is asked for.
    """
    channels, height, width = shape
    image, window = x.view(shape), torch.zeros(shape, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            if 0 <= i + down < height and 0 <= j + right < width:
                place = width - 1 - j if mirrored else j
                window[:, i, place] = image[:, i + down, j + right]
    return window.reshape(channels * height * width)


@dataclass
class Schedule:
    rate: float
    kind: str = "constant"
    warmup: float = 0.0
    milestones: tuple[float, ...] = ()
    decay: float = 1.0

    def at(self, step: int, steps: int) -> float:
        """The learning rate at a step of a task, the first being 0."""
        rising = 0
        if self.warmup > 0:  # at least one step, and not all
            rising = min(steps - 1, max(1, round(self.warmup * steps)))
        if step < rising:
            return self.rate * (step + 1) / (rising + 1)
        progress = (step - rising) / (steps - rising)
        if self.kind == "cosine":
            return self.rate * (1 + math.cos(math.pi * progress)) / 2
        rate = self.rate
        for milestone in self.milestones:
            if self.kind == "step" and progress >= milestone:
                rate *= self.decay
        return rate


# --- learning ---


def movable_entries(course: Course, t: int, theta: Theta, methods: list[Any]) -> dict[str, Tensor]:
    """The backbone, and of the head the outputs that task t or a distillation that trains the head has a use for: the
    others rest, so that neither momentum nor weight decay moves them.
    """
    outputs = course.active_outputs(t, t)
    for method in methods:
        if isinstance(method, LwF) and method.train_head:
            outputs = outputs + course.seen(t)
    found = {}
    for name, value in theta.items():
        found[name] = torch.full_like(value, not name.startswith("head"), dtype=torch.bool)
        if name.startswith("head"):
            for c in outputs:
                found[name][..., c] = True
    return found


@dataclass
class Learner:
    """One member. methods: LwF, EWC, both or none. keep: the optimizer's state lives on from task to task."""

    course: Course
    theta: Theta
    optimizer: Any
    methods: list[Any] = field(default_factory=list)
    keep: bool = False
    task: int = 0

    def begin(self) -> None:
        """The next task."""
        self.task += 1
        if not self.keep:
            self.optimizer.reset()

    def losses(self, theta: Theta, batch: list[Sample]) -> tuple[Tensor, Tensor]:
        """Classification and penalty."""
        t = self.task
        classification = 0.0
        for x, c in batch:
            classification = classification + surprise(
                theta, x, self.course.output(t, c), self.course.active_outputs(t, t)
            ) / len(batch)
        penalty = torch.zeros((), dtype=torch.float64)
        if t > 1:
            for method in self.methods:
                penalty = penalty + method.penalty(self.course, t, theta, batch)
        return classification, penalty

    def step(self, batch: list[Sample]) -> tuple[float, float]:
        theta = ready(self.theta)
        classification, penalty = self.losses(theta, batch)
        slopes = gradient(classification + penalty, theta)
        trainable_mask = movable_entries(self.course, self.task, theta, self.methods)
        with torch.no_grad():
            self.theta = self.optimizer.step({n: v.detach() for n, v in theta.items()}, slopes, trainable_mask)
        return classification.item(), penalty.item()

    def end(self, samples: list[Sample]) -> None:
        """The task is learned: keep of it what must be kept."""
        for method in self.methods:
            method.remember(self.course, self.task, self.theta, samples)

    def accuracy(self, i: int, k: int, samples: list[Sample]) -> float:
        """On samples of task k after learning task i."""
        right = 0
        for x, c in samples:
            z, best, best_value = logits(self.theta, x), -1, -math.inf
            for answer in self.course.active_outputs(i, k):
                if z[answer].item() > best_value:
                    best, best_value = answer, z[answer].item()
            right += best == self.course.output(k, c)
        return right / len(samples)
