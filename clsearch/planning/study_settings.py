"""Types of the keywords of `Study` and `Comparison`, for editors, type checkers and `help`.

A test compares them with `Options` and with the fields of the methods of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, TypedDict

from clsearch.config.sections import Scenario
from clsearch.methods.registry import known_fields
from clsearch.planning.option_groups import describe_bounds
from clsearch.planning.options import Options, Protocol, Pruner


class SharedSettings(TypedDict, total=False):
    """Options and settings that several studies can share: every keyword of `Study` but its name.

    `help(clsearch.Study)` describes each. Types are those that the fields accept: a list for a tuple, text for a path
    or an enum.
    """

    # Study
    trials: int | None
    preset: Literal["clarena-first"] | None
    references: Sequence[Literal["finetuning", "joint", "independent"]]
    seeds: int
    all: bool
    first_seed: int
    sampler: Literal["tpe", "random", "grid", "qmc", "nsga2", "nsga3", "gp", "cmaes"] | Any  # a BaseSampler of Optuna
    sampler_seed: int
    constraints: Mapping[str, float]
    hours: float | str | None
    patience: int | None
    pruner: Pruner | Literal["none", "asha", "median"] | Any  # a BasePruner of Optuna
    cohort: int
    grid_points: int
    enqueue: str | Path | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
    warm_start: str | Path | None
    top: int | None
    anyway: bool
    results: str | Path
    mirror: str | None
    tracking_uri: str | None
    download: bool
    fresh: bool
    yes: bool
    max_failures: int
    quiet: bool
    verbose: bool
    # Selection
    protocol: Protocol | Literal["end_of_sequence", "first_k", "two_phase", "continual"]
    first_k: int | None
    report_benchmark: str | None
    learning_rates: Sequence[float] | None
    objectives: Sequence[str]
    final: bool
    report_seeds: int | None
    first_report_seed: int
    # Resources
    cpus_per_trial: int
    gpus_per_trial: float
    max_concurrent: int | None
    device: Literal["auto", "cpu", "cuda"]
    ray_address: str | None
    # Benchmark
    benchmark: str
    scenario: Scenario | Literal["task", "domain", "class"]
    tasks: int
    classes_per_task: Sequence[int] | None
    class_order: Literal["fixed", "shuffled"]
    grouping: str | Path | None
    data_root: str | Path | None
    image_size: int | None
    image_channels: Literal[1, 3] | None
    random_crop: int
    horizontal_flip: bool
    # Network
    backbone: str | Callable[..., Any]
    hidden: Sequence[int]
    # Training
    epochs: int | None
    iterations: int | None
    batch_size: int
    learning_rate: float
    optimizer: Literal["sgd", "adam", "adamw"]
    momentum: float
    weight_decay: float
    precision: Literal["float32", "bfloat16"]
    optimizer_state: Literal["reset", "keep"]
    schedule: Literal["constant", "cosine", "step"]
    warmup: float
    milestones: Sequence[float]
    decay: float
    # LwF
    distillation_factor: float
    distillation_temperature: float
    teachers: Literal["per_task", "last"]
    train_head: bool
    distance: Literal["cross_entropy", "kl", "mse"]
    temperature_scaling: Literal["none", "squared"]
    # EWC
    penalty_factor: float
    penalty_p_norm: float
    fisher: Literal["empirical", "sampled", "exact", "batch"]
    fisher_scale: Literal["none", "per_parameter", "unit_trace"]
    fisher_samples: int | None
    average_over_tasks: bool
    anchors: Literal["separate", "online"]
    gamma: float
    # Unlearning
    unlearn: Sequence[str] | Mapping[int, int | Sequence[int]]
    unlearn_memories: Literal["as_is", "shift"]
    disable_unlearning: bool
    unlearning_distance: Literal["euclidean", "cosine", "manhattan"]


class StudySettings(SharedSettings, total=False):
    """Keywords of `Study`: every option of a study and every setting of the methods of this package."""

    name: str


def describe_settings(settings: type) -> str:
    """Describe every key of one of the classes above, one paragraph each: name, meaning and bounds."""
    fields = Options.model_fields | known_fields()
    lines = []
    for name in settings.__annotations__:
        bounds = describe_bounds(fields[name])
        text = f"{name}: {fields[name].description}" + (f" ({bounds})" if bounds else "")
        lines.append(fill(text, 110, initial_indent="    ", subsequent_indent="        "))
    return "\n".join(lines)


def add_settings(documented: type, settings: type) -> None:
    """Append the description of every keyword to the docstring of a class, so that `help` shows it."""
    if documented.__doc__ is not None:  # as under python -OO
        documented.__doc__ = f"{cleandoc(documented.__doc__)}\n\nSettings:\n{describe_settings(settings)}\n"
