"""Rules between fields of a configuration. Each function returns its problems: field, rule, value."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from clsearch.common.errors import Refusal
from clsearch.config.plain_values import backbone_name
from clsearch.config.sections import FOLDER, Scenario, TaskConstruction, TrainingConfig, hyperparameters_in
from clsearch.config.unlearning import request_problems

if TYPE_CHECKING:
    from clsearch.config.trial import TrialConfig

SMALLEST, LARGEST = 1e-37, 1e38
"""Bounds of hyperparameters: a training step computes with them in single precision."""


def check_training(config: TrialConfig) -> list[Refusal]:
    """Check length, optimizer, schedule and hyperparameters of the training."""
    problems = []
    if (config.epochs is None) == (config.iterations is None):
        text = f"epochs, iterations: exactly one of the two must be given; got {config.epochs}, {config.iterations}"
        problems.append(Refusal("epochs-or-iterations", text))
    if config.momentum and config.optimizer != "sgd":
        text = f"momentum: acts with sgd only; got {config.momentum:g} with {config.optimizer}"
        problems.append(Refusal("sgd-only", text))
    milestones = " ".join(f"{share:g}" for share in config.milestones)
    for name, shown in (("milestones", milestones), ("decay", f"{config.decay:g}")):
        if config.schedule != "step" and getattr(config, name) != TrainingConfig.model_fields[name].default:
            text = f"{name}: acts with schedule = step only; got {shown} with {config.schedule}"
            problems.append(Refusal("step-schedule-only", text))
    if not all(0 < a < b <= 1 for a, b in pairwise((*config.milestones, 1.0))):
        text = f"milestones: must increase and lie between 0 and 1, both excluded; got {milestones}"
        problems.append(Refusal("milestones-increase", text))
    for name in hyperparameters_in(config.sections):
        value = getattr(config, name)
        if not SMALLEST <= value <= LARGEST:
            text = f"{name}: must lie in single precision, {SMALLEST:g} to {LARGEST:g}; got {value:g}"
            problems.append(Refusal("single-precision", text))
    return problems


def check_network(config: TrialConfig) -> list[Refusal]:
    """Check the widths of the layers."""
    shown = " ".join(map(str, config.hidden))
    layers = config.backbone in ("mlp", "cnn")
    if config.hidden and not layers:
        text = f"hidden: acts with mlp and cnn only; got {shown} with {backbone_name(config.backbone)}"
        return [Refusal("hidden-acts", text)]
    if layers and not config.hidden:
        return [Refusal("hidden-needed", f"hidden: must have at least one width with {config.backbone}; got none")]
    if any(width < 1 for width in config.hidden):
        return [Refusal("hidden-positive", f"hidden: every width must be at least 1; got {shown}")]
    return []


def check_images(config: TrialConfig) -> list[Refusal]:
    """Check settings that act on images only, or on folders of images only."""
    problems = []
    if not config.benchmark.startswith(FOLDER):
        given = {"image_size": config.image_size, "image_channels": config.image_channels}
        problems += [
            Refusal("folder-only", f"{name}: acts with {FOLDER}PATH only; got {value} with {config.benchmark}")
            for name, value in given.items()
            if value is not None
        ]
    if config.augmented and config.kind is TaskConstruction.PERMUTED:
        text = (
            "random_crop, horizontal_flip: act on images, which permuted pixels are not; "
            f"got {config.random_crop}, {config.horizontal_flip} with {config.benchmark}"
        )
        problems.append(Refusal("augmentation-needs-images", text))
    smallest = min(config.source.shape[1:])
    if config.random_crop >= smallest:
        text = f"random_crop: must be less than the images' {smallest} pixels; got {config.random_crop}"
        problems.append(Refusal("crop-within-image", text))
    return problems


def check_tasks(config: TrialConfig) -> list[Refusal]:
    """Check classes and tasks of the benchmark."""
    given = {
        "classes_per_task": config.classes_per_task,
        "class_order": config.class_order,
        "grouping": config.grouping,
    }
    given = {name: value for name, value in given.items() if value not in (None, "fixed")}
    if config.kind is not TaskConstruction.SPLIT:
        rule = "acts in split benchmarks only, where tasks differ in classes"
        return [
            Refusal("split-only", f"{name}: {rule}; got {value} with {config.benchmark}")
            for name, value in given.items()
        ]
    if config.grouping is not None and len(given) > 1:
        others = ", ".join(name for name in given if name != "grouping")
        rule = f"defines the classes of each task, so {others} must not be given"
        return [Refusal("grouping-alone", f"grouping: {rule}; got {config.grouping}")]
    groups = config.source.groups
    if groups is not None:
        return _check_counts(config, "grouping", tuple(map(len, groups)))
    if config.classes_per_task is not None:
        return _check_counts(config, "classes_per_task", config.classes_per_task)
    return _check_even_split(config)


def _check_counts(config: TrialConfig, name: str, counts: tuple[int, ...]) -> list[Refusal]:
    """Check class counts that the field `name` gives."""
    classes, shown = len(config.source.classes), " ".join(map(str, counts))
    if len(counts) != config.tasks:
        rule = "must have as many entries as there are tasks, at least two"
        return [Refusal("counts-match-tasks", f"{name}: {rule}; got {shown} for {config.tasks} tasks")]
    if min(counts) < 2 or sum(counts) > classes:
        rule = f"each task needs at least 2 classes, and all together at most the {classes} of {config.benchmark}"
        return [Refusal("counts-within-classes", f"{name}: {rule}; got {shown}")]
    if len(set(counts)) > 1 and config.scenario is Scenario.DOMAIN:
        rule = "domain-incremental tasks must have equal class counts"
        return [Refusal("domain-equal-counts", f"{name}: {rule}; got {shown}")]
    return []


def _check_even_split(config: TrialConfig) -> list[Refusal]:
    """Check the number of tasks if the classes are spread evenly."""
    classes = len(config.source.classes)
    if config.tasks > classes // 2:
        rule = f"each task needs 2 of the {classes} classes of {config.benchmark}, so at most {classes // 2} tasks"
        return [Refusal("two-classes-per-task", f"tasks: {rule}; got {config.tasks}")]
    if classes % config.tasks != 0 and config.scenario is Scenario.DOMAIN:
        rule = f"must divide {classes}, because domain-incremental tasks must have equal class counts"
        return [Refusal("tasks-divide-classes", f"tasks: {rule}; got {config.tasks}")]
    return []


def check_requests(config: TrialConfig) -> list[Refusal]:
    """Check requests to unlearn tasks."""
    return request_problems(config.unlearn, config.tasks)


RULES: tuple[Callable[[TrialConfig], list[Refusal]], ...] = (
    check_training,
    check_network,
    check_tasks,
    check_images,
    check_requests,
)
"""The rules of every algorithm."""
