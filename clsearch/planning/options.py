"""Options of a study: everything that is not the configuration of a trial."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from clsearch.common.errors import ConfigError
from clsearch.config.sections import Section, at_home
from clsearch.config.trial import explain
from clsearch.methods.registry import presets


class Protocol(StrEnum):
    """What a search may see, and what is reported; see `protocols`."""

    END_OF_SEQUENCE = "end_of_sequence"
    FIRST_K = "first_k"
    TWO_PHASE = "two_phase"
    CONTINUAL = "continual"


class Pruner(StrEnum):
    """How trials are stopped early; see `pruning`."""

    NONE = "none"
    ASHA = "asha"
    MEDIAN = "median"


class StudyOptions(Section):
    """Study"""

    name: str = Field(
        "study",
        max_length=100,
        description="Name of the study, and of its folder in the results.",
    )
    trials: int | None = Field(
        None, ge=1, description="Configurations to try. Unless given: 32, or all points of a grid."
    )
    preset: Literal[presets()] | None = Field(  # type: ignore[valid-type]
        None, description="Settings as other software has them; options given beside it win, a script's own do not."
    )
    references: tuple[Literal["finetuning", "joint", "independent"], ...] = Field(
        ("finetuning",),
        description="Trained beside the search, on the same seeds: finetuning (lower), joint on all tasks so far "
        "(upper; gives intransigence), independent networks, one per task.",
    )
    seeds: int = Field(3, ge=1, description="Seeds that each configuration is trained on.")
    first_seed: int = Field(0, ge=0, description="The seeds are this number and the ones that follow it.")
    sampler: Literal["tpe", "random", "grid", "qmc", "nsga2"] = Field(
        "tpe",
        description="How Optuna chooses: tpe learns from what it saw; random; grid; qmc spreads evenly (Sobol); nsga2 "
        "is genetic, for several objectives.",
    )
    sampler_seed: int = Field(0, ge=0, description="Seed of the sampler.")
    pruner: Pruner = Field(
        Pruner.NONE,
        description="Stop trials early, from task 2 on, by average accuracy over the tasks so far: asha lets the best "
        "third of those that got to 2, 6, 18... tasks go on; median stops what is below the median of the finished.",
    )
    cohort: int = Field(
        1,
        ge=1,
        description="Configurations that are asked for together and train together in one worker; each is a trial of "
        "its own. Pays with small networks and on GPUs; the search learns from fewer results, so at most an eighth of "
        "the trials is advised.",
    )
    grid_points: int = Field(5, ge=2, description="Values per hyperparameter of a grid, spaced as the range is.")
    results: Path = Field(Path("results"), description="Folder that keeps the records of studies.")
    mirror: str | None = Field(
        None,
        description="Where a copy of the study's folder is kept up to date: s3://BUCKET/PATH, gs://..., a folder, or "
        "what else fsspec knows.",
    )
    tracking_uri: str | None = Field(
        None,
        description="MLflow tracking server or store. Unless given: MLFLOW_TRACKING_URI, or SQLite in results.",
    )
    download: bool = Field(False, description="Download the data set into the data root first.")
    fresh: bool = Field(
        False, description="Start over where a study of this name exists; what is there is moved aside, never deleted."
    )
    max_failures: int = Field(
        2,
        ge=0,
        description="How often a trial whose worker died goes on from its last task before it counts as failed.",
    )
    quiet: bool = Field(False, description="Print warnings and the result, not how the study stands.")
    verbose: bool = Field(False, description="Show what Ray and Optuna say, and what workers print.")

    @field_validator("references")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return once(value)

    @field_validator("name")
    @classmethod
    def _folder(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError("must begin with a letter or digit and have letters, digits, dots, - and _ only")
        return value

    @field_validator("results")
    @classmethod
    def _home(cls, value: Path) -> Path:
        return at_home(value)


class SelectionOptions(Section):
    """Selection"""

    protocol: Protocol = Field(
        Protocol.END_OF_SEQUENCE,
        description="What the search sees: end_of_sequence, validation data of all tasks; first_k, the first tasks "
        "only (reported on the others); two_phase, this benchmark (reported on another); continual, task by task, "
        "the current task's data only.",
    )
    first_k: int | None = Field(
        None, ge=2, description="How many tasks first_k searches on; reported on the others. Unless given: 3."
    )
    report_benchmark: str | None = Field(None, description="The benchmark that two_phase reports on.")
    learning_rates: tuple[float, ...] | None = Field(
        None,
        min_length=1,
        description="Learning rates that continual chooses from at each task. Unless given: the learning rate times "
        "0.1, 0.3, 1, 3 and 10.",
    )
    objectives: tuple[str, ...] = Field(
        ("average_accuracy",),
        min_length=1,
        description="Validation metrics that the search optimizes; of several, it finds the Pareto front.",
    )
    final: bool = Field(
        True, description="End with an evaluation of the chosen configuration on fresh seeds, test data included."
    )
    report_seeds: int | None = Field(
        None, ge=1, description="Fresh seeds of the final evaluation. Unless given: 10; 5 on the embedded digits."
    )
    first_report_seed: int = Field(1000, ge=0, description="They are this number and the ones that follow it.")

    @field_validator("objectives", "learning_rates")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return once(value)

    @field_validator("learning_rates")
    @classmethod
    def _positive(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and min(value) <= 0:
            raise ValueError("must all be greater than 0")
        return value


def once(values: Any) -> Any:
    """A tuple, or None. Raises ValueError where it has something twice."""
    if values is not None and len(set(values)) < len(values):
        raise ValueError("must name each at most once")
    return values


class ResourceOptions(Section):
    """Resources"""

    cpus_per_trial: int = Field(1, ge=1, description="CPU cores, and torch threads, of a trial.")
    gpus_per_trial: float = Field(0.0, ge=0, description="GPUs of a trial; a fraction shares one.")
    max_concurrent: int | None = Field(None, ge=1, description="Trials at the same time. Unless given: as many as fit.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to train; auto is cuda if a trial has a GPU, else cpu."
    )
    ray_address: str | None = Field(
        None,
        description="Ray cluster to join, as one of its machines: auto, or HOST:PORT of its head (6379 unless it was "
        "started with another); local starts a Ray of this machine. Unless given: RAY_ADDRESS, which is set in a job, "
        "else local.",
    )


class Options(StudyOptions, SelectionOptions, ResourceOptions):
    """Everything of a study that is not the configuration of a trial."""

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Options:
        """Validate flat settings. Raises ConfigError."""
        try:
            return cls(**settings)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None
