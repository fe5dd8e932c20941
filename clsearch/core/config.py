"""The configuration of one trial: frozen, validated, unknown keys refused.

Each part below is a group of fields; `TrialConfig` is all of them, flat, because the same names are the keys of a
search space, the options of a command line and the parameters of an MLflow run.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from clsearch.core.datasets import SOURCES

FOLLOWS: Any = None
"""Default of a field whose default follows from another field, see TrialConfig._follow."""


class ConfigError(ValueError):
    """Refused input. Each of `problems` names the field, then the rule, then the value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """Workers send errors to the driver pickled; the default would pickle the joined text."""
        return type(self), (self.problems,)


class Scenario(StrEnum):
    """The three scenarios of van de Ven et al. 2022."""

    TASK = "task"
    DOMAIN = "domain"
    CLASS = "class"


class Kind(StrEnum):
    """How a benchmark makes tasks of a source."""

    SPLIT = "split"
    PERMUTED = "permuted"


BENCHMARKS: dict[str, tuple[Kind, str]] = {f"{kind}-{source}": (kind, source) for source in SOURCES for kind in Kind}
"""Name of each benchmark -> (kind, source)."""


def at_home(path: Path) -> Path:
    """A path with `~` filled in. Raises ValueError where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("must lie in a home that exists") from None


class Part(BaseModel):
    """A group of fields: frozen, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class BenchmarkConfig(Part):
    """Benchmark"""

    benchmark: Literal[tuple(BENCHMARKS)] = Field(  # type: ignore[valid-type]
        "split-digits", description="The sequence of tasks."
    )
    scenario: Scenario = Field(
        FOLLOWS,
        validate_default=False,
        description="Scenario: task-, domain- or class-incremental. Unless given: task for split, domain for "
        "permuted benchmarks.",
    )
    tasks: int = Field(
        FOLLOWS,
        ge=2,
        validate_default=False,
        description="Number of tasks. Unless given: two classes a task for split, 10 for permuted benchmarks.",
    )
    data_root: Path | None = Field(
        None, description="Folder of downloaded data sets, in torchvision's layout (digits need none)."
    )

    @property
    def kind(self) -> Kind:
        return BENCHMARKS[self.benchmark][0]

    @property
    def source(self) -> str:
        return BENCHMARKS[self.benchmark][1]

    @field_validator("data_root")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        """Workers run in other directories."""
        return None if value is None else at_home(value).resolve()


class NetworkConfig(Part):
    """Network"""

    hidden: tuple[int, ...] = Field((256, 256), min_length=1, description="Widths of the MLP's hidden layers.")


class TrainingConfig(Part):
    """Training"""

    epochs: int | None = Field(None, ge=1, description="Passes over each task's data (or give --iterations).")
    iterations: int | None = Field(None, ge=1, description="Training steps per task (or give --epochs).")
    batch_size: int = Field(32, ge=1, description="Samples per step.")
    learning_rate: float = Field(
        0.1, gt=0, description="Step size of the optimizer.", json_schema_extra={"scale": "log"}
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="Optimizer.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay (L2 for sgd and adam, decoupled for adamw).")
    optimizer_state: Literal["reset", "keep"] = Field(
        "reset", description="Whether momentum and the like start anew at each task."
    )


class DistillationConfig(Part):
    """LwF"""

    distillation_factor: float = Field(
        1.0, gt=0, description="Weight of the distillation penalty.", json_schema_extra={"scale": "log"}
    )
    distillation_temperature: float = Field(
        2.0,
        gt=0,
        description="Softens teacher and student alike (τ).",
        json_schema_extra={"scale": "log"},
    )
    teachers: Literal["per_task", "last"] = Field(
        FOLLOWS,
        validate_default=False,
        description="One frozen snapshot per old task, or the newest for all. Unless given: last in "
        "class-incremental, per_task otherwise.",
    )
    train_head: bool = Field(
        FOLLOWS,
        validate_default=False,
        description="Whether the distillation gradient reaches the head. Unless given: not in task-incremental.",
    )
    temperature_scaling: Literal["none", "squared"] = Field(
        "none", description="Multiply the penalty by 1 (as published) or by τ² (Hinton et al. 2015)."
    )


class ParameterChangeConfig(Part):
    """EWC"""

    penalty_factor: float = Field(
        1.0,
        gt=0,
        description="Weight of the parameter-change penalty (λ/2 of Kirkpatrick et al. 2017 when p = 2).",
        json_schema_extra={"scale": "log"},
    )
    penalty_p_norm: float = Field(
        2.0,
        ge=1,
        description="Exponent p of the parameter distance.",
        json_schema_extra={"scale": "linear"},
    )
    average_over_tasks: bool = Field(
        False, description="Divide the sum over old tasks by the number of the current task."
    )


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
    "lwf": (*COMMON, DistillationConfig),
    "ewc": (*COMMON, ParameterChangeConfig),
}
"""Algorithm -> the parts of the configuration that act in it."""


def fields_of(algorithm: str) -> tuple[str, ...]:
    """Names of the fields that act in an algorithm, in the order of the parts."""
    return tuple(name for part in PARTS[algorithm] for name in part.model_fields)


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
        """Fill in the defaults that follow another field."""
        name = settings.get("benchmark", "split-digits")
        kind, source = BENCHMARKS.get(name if isinstance(name, str) else "", (None, ""))
        if kind is None:  # refused by its own rule
            return settings | {"scenario": "task", "tasks": 2, "teachers": "last", "train_head": True}
        split = kind is Kind.SPLIT
        scenario = settings.get("scenario") or ("task" if split else "domain")
        return {
            "scenario": scenario,
            "tasks": SOURCES[source].classes // 2 if split else 10,
            "teachers": "last" if scenario == "class" else "per_task",
            "train_head": scenario != "task",
        } | settings

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Rules over more than one field."""
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError(
                f"epochs, iterations: exactly one of the two must be given; got {self.epochs}, {self.iterations}"
            )
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden: every width must be at least 1; got {' '.join(map(str, self.hidden))}")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum: acts with sgd only; got {self.momentum:g} with {self.optimizer}")
        for name in NUMBERS:
            if not SMALLEST <= getattr(self, name) <= LARGEST:
                raise ValueError(
                    f"{name}: must lie in single precision, {SMALLEST:g} to {LARGEST:g}; got {getattr(self, name):g}"
                )
        classes = SOURCES[self.source].classes
        if self.kind is Kind.SPLIT and self.tasks > classes // 2:
            raise ValueError(
                f"tasks: each task needs 2 of the {classes} classes of {self.benchmark}, so at most "
                f"{classes // 2} tasks; got {self.tasks}"
            )
        if self.kind is Kind.SPLIT and self.scenario is Scenario.DOMAIN and classes % self.tasks:
            raise ValueError(
                f"tasks: domain-incremental tasks must have equal class counts, so the number of tasks must "
                f"divide {classes}; got {self.tasks}"
            )
        return self

    def flat(self) -> dict[str, Any]:
        """Every setting that acts in this algorithm, as plain values: name -> number, text, list or None."""
        return self.model_dump(mode="json", include=set(fields_of(self.algorithm)))


def explain(error: ValidationError) -> list[str]:
    """One line per problem of a pydantic error: field, rule, value."""
    lines = []
    for problem in error.errors():
        rule = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        where = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
        lines.append(f"{where}: {rule}; got {problem['input']!r}" if where else rule)
    return lines
