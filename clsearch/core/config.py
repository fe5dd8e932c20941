"""The configuration of one trial: frozen, validated, unknown keys refused.

`TrialConfig` is all parts, flat, because the same names are the keys of a search space, the options of a command line
and the parameters of an MLflow run.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ValidationError, model_validator

from clsearch.core.datasets import SOURCES
from clsearch.core.parts import (
    BENCHMARKS,
    BenchmarkConfig,
    DistillationConfig,
    Kind,
    NetworkConfig,
    ParameterChangeConfig,
    Part,
    Scenario,
    TrainingConfig,
)


class ConfigError(ValueError):
    """Refused input. Each of `problems` names the field, then the rule, then the value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """Workers send errors to the driver pickled; the default would pickle the joined text."""
        return type(self), (self.problems,)


NUMBERS = (
    "learning_rate",
    "distillation_factor",
    "distillation_temperature",
    "penalty_factor",
    "penalty_p_norm",
)
"""Hyperparameters in which members may differ; they reach the step as tensors [M] of single precision."""

SMALLEST, LARGEST = 1e-37, 1e38

COMMON: tuple[type[Part], ...] = (BenchmarkConfig, NetworkConfig, TrainingConfig)
PARTS: dict[str, tuple[type[Part], ...]] = {
    "finetuning": COMMON,
    "joint": COMMON,
    "independent": COMMON,
    "lwf": (*COMMON, DistillationConfig),
    "ewc": (*COMMON, ParameterChangeConfig),
    "lwf_ewc": (*COMMON, DistillationConfig, ParameterChangeConfig),
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


def fields_of(algorithm: str) -> tuple[str, ...]:
    """Names of the fields that act in an algorithm, in the order of the parts."""
    return tuple(name for part in PARTS[algorithm] for name in part.model_fields)


def preset_settings(algorithm: str, preset: str | None) -> dict[str, Any]:
    """The settings of a preset that act in an algorithm; none for an unknown one, which its own rule refuses."""
    known = fields_of(algorithm) if algorithm in PARTS else ()
    return {name: value for name, value in PRESETS.get(preset or "", {}).items() if name in known}


def followed(settings: dict[str, Any]) -> dict[str, Any]:
    """The defaults that follow other fields, where `settings` leave those fields out."""
    name = settings.get("benchmark", "split-digits")
    kind, source = BENCHMARKS.get(name if isinstance(name, str) else "", (None, ""))
    if kind is None:  # refused by its own rule
        return {"scenario": "task", "tasks": 2, "teachers": "last", "train_head": True}
    split = kind is Kind.SPLIT
    scenario = settings.get("scenario") or ("task" if split else "domain")
    counts = settings.get("classes_per_task")
    tasks = len(counts) if isinstance(counts, list | tuple) else SOURCES[source].classes // 2 if split else 10
    return {
        "scenario": scenario,
        "tasks": max(2, tasks),
        "teachers": "last" if scenario == "class" else "per_task",
        "train_head": scenario != "task",
    }


class TrialConfig(BenchmarkConfig, NetworkConfig, TrainingConfig, DistillationConfig, ParameterChangeConfig):
    """One configuration, complete: build it with `TrialConfig.of`, which explains what it refuses."""

    algorithm: Literal[tuple(PARTS)] = "finetuning"  # type: ignore[valid-type]

    @classmethod
    def of(cls, algorithm: str, settings: dict[str, Any]) -> Self:
        """Validate `settings` (flat; None = unless given) for an algorithm.

        Raises ConfigError for an unknown algorithm or key, a value against its rule, or a setting of another
        algorithm.
        """
        if not isinstance(algorithm, str) or algorithm not in PARTS:
            raise ConfigError([f"algorithm: must be one of {', '.join(PARTS)}; got {algorithm!r}"])
        known = fields_of(algorithm)
        unknown = [key for key in settings if key not in known]
        if unknown:
            raise ConfigError([f"{key}: not a setting of {algorithm}; known are {', '.join(known)}" for key in unknown])
        try:
            return cls(algorithm=algorithm, **{k: v for k, v in settings.items() if v is not None})
        except ValidationError as error:
            raise ConfigError(explain(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _follow(cls, settings: dict[str, Any]) -> dict[str, Any]:
        return followed(settings) | settings

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Rules over more than one field."""
        if problems := [*_training_problems(self), *_task_problems(self), *_method_problems(self)]:
            raise ValueError("\n".join(problems))
        return self

    def flat(self) -> dict[str, Any]:
        """Every setting that acts in this algorithm, as plain values: name -> number, text, list or None."""
        return self.model_dump(mode="json", include=set(fields_of(self.algorithm)))


def _training_problems(config: TrialConfig) -> list[str]:
    problems = []
    if (config.epochs is None) == (config.iterations is None):
        problems.append(
            f"epochs, iterations: exactly one of the two must be given; got {config.epochs}, {config.iterations}"
        )
    if any(width < 1 for width in config.hidden):
        problems.append(f"hidden: every width must be at least 1; got {' '.join(map(str, config.hidden))}")
    if config.momentum and config.optimizer != "sgd":
        problems.append(f"momentum: acts with sgd only; got {config.momentum:g} with {config.optimizer}")
    for name in NUMBERS:
        value = getattr(config, name)
        if not SMALLEST <= value <= LARGEST:
            problems.append(f"{name}: must lie in single precision, {SMALLEST:g} to {LARGEST:g}; got {value:g}")
    return problems


def _task_problems(config: TrialConfig) -> list[str]:
    """What a benchmark's classes and tasks must hold."""
    if config.kind is not Kind.SPLIT:
        given = {"classes_per_task": config.classes_per_task, "class_order": config.class_order}
        return [
            f"{name}: acts in split benchmarks only, where tasks differ in classes; got {value} with {config.benchmark}"
            for name, value in given.items()
            if value not in (None, "fixed")
        ]
    classes, counts = SOURCES[config.source].classes, config.classes_per_task
    if counts is not None:
        shown = " ".join(map(str, counts))
        if len(counts) != config.tasks:
            return [
                f"classes_per_task: must have one number per task, and at least two tasks; got {shown} for "
                f"{config.tasks} tasks"
            ]
        if min(counts) < 2 or sum(counts) > classes:
            return [
                f"classes_per_task: each task needs at least 2 classes, and all together at most the {classes} of "
                f"{config.benchmark}; got {shown}"
            ]
        unequal, rule, got = len(set(counts)) > 1, "classes_per_task: ", shown
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
    if config.algorithm == "independent" and config.scenario is Scenario.CLASS:
        problems.append(
            "scenario: must be task or domain for independent networks, because which of them answers is the task's "
            "identity, unknown in class-incremental learning; got class"
        )
    return problems


def explain(error: ValidationError) -> list[str]:
    """One line per problem of a pydantic error: field, rule, value."""
    lines = []
    for problem in error.errors():
        rule = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        where = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
        lines += [f"{where}: {rule}; got {problem['input']!r}"] if where else rule.split("\n")
    return lines
