"""Rules between fields of a configuration. Each function gives the problems, one line each: field, rule; got value."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from clsearch.config.sections import FOLDER, Kind, Scenario, TrainingConfig, backbone_name
from clsearch.config.unlearning import request_problems

if TYPE_CHECKING:
    from clsearch.config.trial import TrialConfig

SMALLEST, LARGEST = 1e-37, 1e38
"""Numbers that reach a training step are single precision."""


def check_training(config: TrialConfig) -> list[str]:
    """Length, optimizer, schedule and numbers of the training."""
    problems = []
    if (config.epochs is None) == (config.iterations is None):
        problems.append(
            f"epochs, iterations: exactly one of the two must be given; got {config.epochs}, {config.iterations}"
        )
    if config.momentum and config.optimizer != "sgd":
        problems.append(f"momentum: acts with sgd only; got {config.momentum:g} with {config.optimizer}")
    milestones = " ".join(f"{share:g}" for share in config.milestones)
    for name, shown in (("milestones", milestones), ("decay", f"{config.decay:g}")):
        if config.schedule != "step" and getattr(config, name) != TrainingConfig.model_fields[name].default:
            problems.append(f"{name}: acts with schedule = step only; got {shown} with {config.schedule}")
    if not all(0 < a < b <= 1 for a, b in pairwise((*config.milestones, 1.0))):
        problems.append(f"milestones: must rise, above 0 and below 1; got {milestones}")
    for name in config.hyperparameters:
        value = getattr(config, name)
        if not SMALLEST <= value <= LARGEST:
            problems.append(f"{name}: must lie in single precision, {SMALLEST:g} to {LARGEST:g}; got {value:g}")
    return problems


def check_network(config: TrialConfig) -> list[str]:
    """Widths of the layers."""
    shown = " ".join(map(str, config.hidden))
    layers = config.backbone in ("mlp", "cnn")
    if config.hidden and not layers:
        return [f"hidden: acts with mlp and cnn only; got {shown} with {backbone_name(config.backbone)}"]
    if layers and not config.hidden:
        return [f"hidden: must have at least one width with {config.backbone}; got none"]
    if any(width < 1 for width in config.hidden):
        return [f"hidden: every width must be at least 1; got {shown}"]
    return []


def check_images(config: TrialConfig) -> list[str]:
    """Settings that act on images only, or on the user's own only."""
    problems = []
    if not config.benchmark.startswith(FOLDER):
        given = {"image_size": config.image_size, "image_channels": config.image_channels}
        problems += [
            f"{name}: acts with {FOLDER}PATH only; got {value} with {config.benchmark}"
            for name, value in given.items()
            if value is not None
        ]
    if config.augmented and config.kind is Kind.PERMUTED:
        problems.append(
            f"random_crop, horizontal_flip: act on images, and permuted pixels are none; got {config.random_crop}, "
            f"{config.horizontal_flip} with {config.benchmark}"
        )
    smallest = min(config.source.shape[1:])
    if config.random_crop >= smallest:
        problems.append(f"random_crop: must be less than the images' {smallest} pixels; got {config.random_crop}")
    return problems


def check_tasks(config: TrialConfig) -> list[str]:
    """Classes and tasks of the benchmark."""
    given = {
        "classes_per_task": config.classes_per_task,
        "class_order": config.class_order,
        "grouping": config.grouping,
    }
    given = {name: value for name, value in given.items() if value not in (None, "fixed")}
    if config.kind is not Kind.SPLIT:
        return [
            f"{name}: acts in split benchmarks only, where tasks differ in classes; got {value} with {config.benchmark}"
            for name, value in given.items()
        ]
    if config.grouping is not None and len(given) > 1:
        others = ", ".join(name for name in given if name != "grouping")
        return [f"grouping: says which classes each task has, so {others} must not be given; got {config.grouping}"]
    return _check_split(config)


def _check_split(config: TrialConfig) -> list[str]:
    classes, groups = len(config.source.classes), config.source.groups
    counts = config.classes_per_task if groups is None else tuple(map(len, groups))
    name = "classes_per_task" if groups is None else "grouping"
    if counts is not None:
        shown = " ".join(map(str, counts))
        if len(counts) != config.tasks:
            return [
                f"{name}: must have as many entries as there are tasks, at least two; got {shown} for "
                f"{config.tasks} tasks"
            ]
        if min(counts) < 2 or sum(counts) > classes:
            return [
                f"{name}: each task needs at least 2 classes, and all together at most the {classes} of "
                f"{config.benchmark}; got {shown}"
            ]
        unequal, rule, got = len(set(counts)) > 1, f"{name}: ", shown
    else:
        if config.tasks > classes // 2:
            return [
                f"tasks: each task needs 2 of the {classes} classes of {config.benchmark}, so at most "
                f"{classes // 2} tasks; got {config.tasks}"
            ]
        unequal, rule, got = classes % config.tasks != 0, f"tasks: must divide {classes}, because ", str(config.tasks)
    if unequal and config.scenario is Scenario.DOMAIN:
        return [f"{rule}domain-incremental tasks must have equal class counts; got {got}"]
    return []


def check_requests(config: TrialConfig) -> list[str]:
    """Requests to unlearn tasks."""
    return request_problems(config.unlearn, config.tasks)


RULES: tuple[Callable[[TrialConfig], list[str]], ...] = (
    check_training,
    check_network,
    check_tasks,
    check_images,
    check_requests,
)
"""The rules of every algorithm."""
