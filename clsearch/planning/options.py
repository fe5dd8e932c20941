"""Options of a study: every setting that is not part of a trial's configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from clsearch.common.errors import ConfigError, RuleError, did_you_mean
from clsearch.config.sections import Section, to_local_path
from clsearch.config.trial import explain
from clsearch.methods.registry import presets
from clsearch.planning.samplers import SAMPLERS, is_optuna
from clsearch.planning.time_limits import read_hours


class Protocol(StrEnum):
    """Data that a search sees and data that it reports on; see `protocols`."""

    END_OF_SEQUENCE = "end_of_sequence"
    FIRST_K = "first_k"
    TWO_PHASE = "two_phase"
    CONTINUAL = "continual"


class Pruner(StrEnum):
    """Rule by which trials are stopped early; see `sampling.pruners`."""

    NONE = "none"
    ASHA = "asha"
    MEDIAN = "median"


ADDRESSES = ("mirror", "tracking_uri", "ray_address")
"""Options that hold an address, whose secrets are kept in memory only."""


class StudyOptions(Section):
    """Study"""

    name: str = Field(
        "study",
        max_length=100,
        description="Name of the study and of its folder in the results.",
    )
    trials: int | None = Field(
        None, ge=1, description="Number of configurations to try. If not given: 32, or all points of a grid."
    )
    preset: Literal[presets()] | None = Field(  # type: ignore[valid-type]
        None,
        description="Use the settings of other software. Options beside it on the command line win; those of a script "
        "do not.",
    )
    references: tuple[Literal["finetuning", "joint", "independent"], ...] = Field(
        ("finetuning",),
        description="Reference algorithms to train on the same seeds: finetuning (lower bound), joint on all tasks so "
        "far (upper bound; gives intransigence), independent networks, one per task.",
    )
    seeds: int = Field(
        3,
        ge=1,
        description="Number of seeds per configuration. More than a study that exists has: the trials that are not "
        "shown worse than its best, and its references, are trained on the further seeds.",
    )
    all: bool = Field(False, description="Train every finished trial on further seeds of a study that exists.")
    first_seed: int = Field(0, ge=0, description="First seed; the others follow it.")
    sampler: Any = Field(
        "tpe",
        description="Optuna's sampler: tpe learns from results; random; grid; qmc spreads evenly (Sobol); nsga2 and "
        "nsga3 are genetic, for several objectives; gp (Gaussian process) learns from few trials; cmaes evolves "
        "numbers. From Python, also an object of optuna.samplers.",
    )
    sampler_seed: int = Field(0, ge=0, description="Seed of the sampler.")
    constraints: dict[str, float] = Field(
        {},
        description="Validation metrics and the values that they must keep: at most, or at least if more is better. A "
        "trial that breaks one is never chosen. --constraint METRIC VALUE adds one.",
    )
    hours: float | str | None = Field(
        None,
        description="Time limit of this call, as 2, 90min or 1h30min: no trial starts that would end after it by the "
        "estimate, and the rest of the study is allowed for. Run again, the study goes on.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="End the search when this many ended trials in a row did not improve the best by more than the "
        "standard error over its seeds.",
    )
    pruner: Any = Field(
        Pruner.NONE,
        description="Stop trials early, from task 2 on, by average accuracy over the tasks so far: asha continues the "
        "best third of the trials that reach 2, 6, 18... tasks; median stops trials below the median of the finished "
        "ones. From Python, also an object of optuna.pruners.",
    )
    cohort: int = Field(
        1,
        ge=1,
        le=10_000,
        description="Number of configurations trained as one batch per worker; use at most 1/8 of --trials. Faster for "
        "small networks and on GPUs, but the search learns from fewer results.",
    )
    grid_points: int = Field(5, ge=2, description="Values per hyperparameter of a grid, evenly spaced on its scale.")
    enqueue: tuple[str | dict[str, Any], ...] | None = Field(
        None,
        description="Configurations to try first: a YAML file (a list of mappings `hyperparameter: value`) or a CSV "
        "file (a heading of hyperparameters; empty cells are left open), or configurations themselves in YAML, as "
        "'{learning_rate: 0.1}'. Part of a configuration is enough; the sampler chooses the rest.",
    )
    warm_start: Path | None = Field(
        None, description="Folder of another study whose best trials are tried first, where the spaces agree."
    )
    top: int | None = Field(
        None, ge=1, description="Number of trials that a warm start takes. If not given: 10, or all trials if fewer."
    )
    anyway: bool = Field(False, description="Accept a warm start from another benchmark, scenario or algorithm.")
    results: Path = Field(Path("results"), description="Folder that keeps the records of studies.")
    mirror: str | None = Field(
        None,
        description="Keep a copy of the study's folder here: s3://BUCKET/PATH, gs://..., a folder, or any other "
        "address that fsspec knows.",
    )
    tracking_uri: str | None = Field(
        None,
        description="MLflow tracking server or store. If not given: MLFLOW_TRACKING_URI, or SQLite in the results.",
    )
    download: bool = Field(False, description="Download the data set to --data-root first.")
    fresh: bool = Field(
        False, description="Start over if a study of this name exists; its record is moved aside, never deleted."
    )
    yes: bool = Field(False, description="Go on although the study takes longer than a year, by a lower bound.")
    max_failures: int = Field(
        2,
        ge=0,
        description="Number of times that a trial resumes from its last task after its worker dies, before it fails.",
    )
    quiet: bool = Field(False, description="Print warnings and the result, but no progress.")
    verbose: bool = Field(False, description="Show messages of Ray and Optuna and the output of workers.")

    @field_validator("references")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_unique(value)

    @field_validator("sampler")
    @classmethod
    def _sampler(cls, value: Any) -> Any:
        if value in [*SAMPLERS] or is_optuna(value, "BaseSampler"):
            return value
        rule = f"must be one of {', '.join(SAMPLERS)}, or an object of optuna.samplers"
        raise RuleError("sampler-known", rule + did_you_mean(str(value), SAMPLERS))

    @field_validator("pruner")
    @classmethod
    def _pruner(cls, value: Any) -> Any:
        if value in [*Pruner]:
            return Pruner(value)
        if is_optuna(value, "BasePruner"):
            return value
        raise RuleError("pruner-known", f"must be one of {', '.join(Pruner)}, or an object of optuna.pruners")

    @field_validator("hours")
    @classmethod
    def _hours(cls, value: float | str | None) -> float | None:
        return None if value is None else read_hours(value)

    @field_validator("name")
    @classmethod
    def _folder(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            rule = "must begin with a letter or digit and have letters, digits, dots, - and _ only"
            raise RuleError("study-name", rule)
        return value

    @field_validator("results", "warm_start")
    @classmethod
    def _local(cls, value: Path | None) -> Path | None:
        return None if value is None else to_local_path(value)

    @field_validator("enqueue", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """Take one file or one configuration for a list of one."""
        several = list(value) if isinstance(value, list | tuple) else [value]
        several = [str(one) if isinstance(one, Path) else one for one in several]
        return None if value is None else [dict(one) if isinstance(one, Mapping) else one for one in several]


class SelectionOptions(Section):
    """Selection"""

    protocol: Protocol = Field(
        Protocol.END_OF_SEQUENCE,
        description="Data that the search sees: end_of_sequence, validation data of all tasks; first_k, the first "
        "tasks only (reports on the others); two_phase, this benchmark (reports on another); continual, only the "
        "current task's data, task by task.",
    )
    first_k: int | None = Field(
        None, ge=2, description="Number of tasks that first_k searches on; it reports on the others. If not given: 3."
    )
    report_benchmark: str | None = Field(None, description="Benchmark that two_phase reports on.")
    learning_rates: tuple[float, ...] | None = Field(
        None,
        min_length=1,
        description="Learning rates from which continual chooses at each task. If not given: the learning rate times "
        "0.1, 0.3, 1, 3 and 10.",
    )
    objectives: tuple[str, ...] = Field(
        ("average_accuracy",),
        min_length=1,
        description="Validation metrics that the search optimizes; for several, it finds the Pareto front.",
    )
    final: bool = Field(
        True, description="Evaluate the chosen configuration at the end on fresh seeds, on test data too."
    )
    report_seeds: int | None = Field(
        None,
        ge=1,
        description="Number of fresh seeds of the final evaluation. If not given: 10; 5 on the embedded digits.",
    )
    first_report_seed: int = Field(1000, ge=0, description="First fresh seed; the others follow it.")

    @field_validator("objectives", "learning_rates")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return check_unique(value)

    @field_validator("learning_rates")
    @classmethod
    def _positive(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and min(value) <= 0:
            raise RuleError("rates-positive", "must all be greater than 0")
        return value


def check_unique(values: Any) -> Any:
    """Return a tuple, or None, unchanged. Raises ValueError if it repeats a value."""
    if values is not None and len(set(values)) < len(values):
        raise RuleError("names-once", "must name each at most once")
    return values


class ResourceOptions(Section):
    """Resources"""

    cpus_per_trial: int = Field(1, ge=1, description="CPU cores and torch threads of a trial.")
    gpus_per_trial: float = Field(0.0, ge=0, description="GPUs of a trial; a fraction shares one.")
    max_concurrent: int | None = Field(
        None, ge=1, description="Maximum number of concurrent trials. If not given: as many as fit."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device to train on; auto is cuda if a trial has a GPU, else cpu."
    )
    ray_address: str | None = Field(
        None,
        description="Ray cluster to join as one of its machines: auto, or HOST:PORT of its head (port 6379 unless it "
        "was started with another); local starts Ray on this machine. If not given: RAY_ADDRESS, which a job sets, "
        "else local.",
    )


class Options(StudyOptions, SelectionOptions, ResourceOptions):
    """Every option of a study that is not part of a trial's configuration."""

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Options:
        """Validate flat settings. Raises ConfigError."""
        try:
            return cls(**settings)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None
