"""The configuration of one trial: frozen, validated, unknown keys refused.

`TrialConfig` is all parts, flat, because the same names are the keys of a search space, the options of a command line
and the parameters of an MLflow run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Self

from pydantic import ValidationError, ValidationInfo, create_model, model_validator

from clsearch.common.errors import ConfigError
from clsearch.config.data_source import source_of
from clsearch.config.method_sections import (
    DistillationConfig,
    ParameterChangeConfig,
    UnlearningConfig,
    request_problems,
)
from clsearch.config.sections import (
    BENCHMARKS,
    FOLDER,
    BenchmarkConfig,
    Kind,
    NetworkConfig,
    Part,
    Scenario,
    TrainingConfig,
    backbone_name,
)
from clsearch.data.datasets import Source

NUMBERS = (
    "learning_rate",
    "distillation_factor",
    "distillation_temperature",
    "penalty_factor",
    "penalty_p_norm",
)
"""Hyperparameters in which members may differ; they reach the step as tensors [M] of single precision."""

SMALLEST, LARGEST = 1e-37, 1e38

MOST_TASKS = 20
"""A split benchmark has two classes a task unless that makes more tasks than this: 10 tasks then."""

COMMON: tuple[type[Part], ...] = (BenchmarkConfig, NetworkConfig, TrainingConfig)
PARTS: dict[str, tuple[type[Part], ...]] = {
    "finetuning": COMMON,
    "joint": COMMON,
    "independent": COMMON,
    "lwf": (*COMMON, DistillationConfig),
    "ewc": (*COMMON, ParameterChangeConfig),
    "lwf_ewc": (*COMMON, DistillationConfig, ParameterChangeConfig),
    "amnesiac_finetuning": (*COMMON, UnlearningConfig),
    "amnesiac_lwf": (*COMMON, DistillationConfig, UnlearningConfig),
    "amnesiac_ewc": (*COMMON, ParameterChangeConfig, UnlearningConfig),
}
"""Algorithm -> the parts of the configuration that act in it."""

PRESETS: dict[str, dict[str, Any]] = {
    "clarena-first": {
        "fisher": "batch",
        "fisher_scale": "per_parameter",
        "average_over_tasks": True,
        "teachers": "per_task",
        "train_head": False,
    },
}
"""Name -> settings as other software has them; an algorithm takes those that it knows."""


def part_of(settings: Sequence[str]) -> type[Part]:
    """The part of an algorithm that has these fields of the configuration as its own."""
    fields: dict[str, Any] = {name: (field.annotation, field) for name, field in TrialConfig.model_fields.items()}
    own: type[Part] = create_model("Own", __base__=Part, __doc__="Own", **{name: fields[name] for name in settings})
    return own


def fields_of(algorithm: str) -> tuple[str, ...]:
    """Names of the fields that act in an algorithm, in the order of the parts."""
    return tuple(name for part in PARTS[algorithm] for name in part.model_fields)


def preset_settings(algorithm: str, preset: str | None) -> dict[str, Any]:
    """The settings of a preset that act in an algorithm; none for an unknown one, which its own rule refuses."""
    known = fields_of(algorithm) if algorithm in PARTS else ()
    return {name: value for name, value in PRESETS.get(preset or "", {}).items() if name in known}


def followed(settings: dict[str, Any], source: Source | None) -> dict[str, Any]:
    """The defaults that follow other fields, where `settings` leave those fields out. source: None where the benchmark
    is refused by its own rules.
    """
    backbone = settings.get("backbone", "mlp")
    hidden = {"mlp": (256, 256), "cnn": (128,)}.get(backbone, ()) if isinstance(backbone, str) else ()
    if source is None:
        return {"scenario": "task", "tasks": 2, "teachers": "last", "train_head": True, "hidden": hidden}
    split = BENCHMARKS.get(settings.get("benchmark", "split-digits"), (Kind.SPLIT,))[0] is Kind.SPLIT
    scenario = settings.get("scenario") or ("task" if split else "domain")
    counts = source.groups or settings.get("classes_per_task")
    pairs = len(source.classes) // 2
    tasks = len(counts) if isinstance(counts, list | tuple) else pairs if split and pairs <= MOST_TASKS else 10
    return {
        "scenario": scenario,
        "tasks": max(2, tasks),
        "teachers": "last" if scenario == "class" else "per_task",
        "train_head": scenario != "task",
        "hidden": hidden,
    }


class TrialConfig(
    BenchmarkConfig, NetworkConfig, TrainingConfig, DistillationConfig, ParameterChangeConfig, UnlearningConfig
):
    """One configuration, complete: build it with `TrialConfig.of`, which explains what it refuses."""

    algorithm: str = "finetuning"

    @classmethod
    def of(cls, algorithm: str, settings: dict[str, Any], source: Source | None = None) -> Self:
        """Validate `settings` (flat; None = unless given) for an algorithm.

        source: of the benchmark, where it is known already; else a folder of images is listed for it.
        Raises ConfigError for an unknown algorithm or key, a value against its rule, a setting of another algorithm,
        or images that cannot be used.
        """
        if not isinstance(algorithm, str) or algorithm not in PARTS:
            raise ConfigError([f"algorithm: must be one of {', '.join(PARTS)}; got {algorithm!r}"])
        known = fields_of(algorithm)
        unknown = [key for key in settings if key not in known]
        if unknown:
            raise ConfigError([f"{key}: not a setting of {algorithm}; known are {', '.join(known)}" for key in unknown])
        given = {k: v for k, v in settings.items() if v is not None}
        context = {"source": source or source_of(given)}
        try:
            return cls.model_validate({"algorithm": algorithm} | given, context=context)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _follow(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return followed(settings, (info.context or {}).get("source")) | settings

    @model_validator(mode="after")
    def _agree(self, info: ValidationInfo) -> Self:
        """Rules over more than one field."""
        self._source = (info.context or {})["source"]
        if problems := [problem for rules in RULES for problem in rules(self)]:
            raise ValueError("\n".join(problems))
        return self

    @property
    def amnesiac(self) -> bool:
        """Whether the algorithm can unlearn tasks."""
        return UnlearningConfig in PARTS[self.algorithm]

    def flat(self) -> dict[str, Any]:
        """Every setting that acts in this algorithm, as plain values: name -> number, text, list or None."""
        return self.model_dump(mode="json", include=set(fields_of(self.algorithm)))


def _training_problems(config: TrialConfig) -> list[str]:
    problems = []
    if (config.epochs is None) == (config.iterations is None):
        problems.append(
            f"epochs, iterations: exactly one of the two must be given; got {config.epochs}, {config.iterations}"
        )
    if config.momentum and config.optimizer != "sgd":
        problems.append(f"momentum: acts with sgd only; got {config.momentum:g} with {config.optimizer}")
    milestones = " ".join(f"{share:g}" for share in config.milestones)
    for name, shown in (("milestones", milestones), ("decay", f"{config.decay:g}")):
        if config.schedule != "step" and getattr(config, name) != TrialConfig.model_fields[name].default:
            problems.append(f"{name}: acts with schedule = step only; got {shown} with {config.schedule}")
    if not all(0 < a < b <= 1 for a, b in pairwise((*config.milestones, 1.0))):
        problems.append(f"milestones: must rise, above 0 and below 1; got {milestones}")
    for name in NUMBERS:
        value = getattr(config, name)
        if not SMALLEST <= value <= LARGEST:
            problems.append(f"{name}: must lie in single precision, {SMALLEST:g} to {LARGEST:g}; got {value:g}")
    return problems


def _network_problems(config: TrialConfig) -> list[str]:
    shown = " ".join(map(str, config.hidden))
    layers = config.backbone in ("mlp", "cnn")
    if config.hidden and not layers:
        return [f"hidden: acts with mlp and cnn only; got {shown} with {backbone_name(config.backbone)}"]
    if layers and not config.hidden:
        return [f"hidden: must have at least one width with {config.backbone}; got none"]
    if any(width < 1 for width in config.hidden):
        return [f"hidden: every width must be at least 1; got {shown}"]
    return []


def _image_problems(config: TrialConfig) -> list[str]:
    """What acts on images only, or on the user's own only."""
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


def _task_problems(config: TrialConfig) -> list[str]:
    """What a benchmark's classes and tasks must hold."""
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
    return _split_problems(config)


def _split_problems(config: TrialConfig) -> list[str]:
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


def _method_problems(config: TrialConfig) -> list[str]:
    problems = []
    if config.distance == "mse" and config.temperature_scaling != "none":
        problems.append(
            f"temperature_scaling: must be none where distance is mse, which has no temperature; "
            f"got {config.temperature_scaling}"
        )
    if config.gamma != 1 and config.anchors != "online":
        problems.append(f"gamma: acts with anchors = online only; got {config.gamma:g} with {config.anchors}")
    if config.amnesiac and config.anchors == "online":
        problems.append("anchors: must be separate where tasks may be unlearned, whose anchors are dropped; got online")
    if config.algorithm == "independent" and config.scenario is Scenario.CLASS:
        problems.append(
            "scenario: must be task or domain for independent networks, because which of them answers is the task's "
            "identity, unknown in class-incremental learning; got class"
        )
    return problems


RULES: tuple[Callable[[TrialConfig], list[str]], ...] = (
    _training_problems,
    _network_problems,
    _task_problems,
    _image_problems,
    _method_problems,
    lambda config: request_problems(config.unlearn, config.tasks),
)


PLAINLY = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be several values, a tuple or list",
}
"""Types of pydantic's errors that it words for programmers -> the rule."""


def explain(error: ValidationError) -> list[str]:
    """One line per problem of a pydantic error: field, rule, value."""
    lines = []
    for problem in error.errors():
        rule = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        rule = PLAINLY.get(problem["type"], rule)
        where = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
        lines += [f"{where}: {rule}; got {problem['input']!r}"] if where else rule.split("\n")
    return lines
