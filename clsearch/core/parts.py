"""The parts of a configuration: groups of fields, each with its rule. What holds between fields is in `config`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from clsearch.core.datasets import SOURCES

FOLLOWS: Any = None
"""Default of a field whose default follows from another field, see config.followed."""


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
    """A group of fields: frozen, no unknown keys, no NaN or infinity.

    A field with `json_schema_extra` may be searched: `scale` is how its range is spaced (log or linear), `strong` where
    in its range the others' effect is largest (low, middle or high).
    """

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
    classes_per_task: tuple[int, ...] | None = Field(
        None,
        description="How many classes each task of a split benchmark has, as 4 2 2 2. Unless given: as equal as "
        "can be.",
    )
    class_order: Literal["fixed", "shuffled"] = Field(
        "fixed",
        description="Which classes a split benchmark's tasks get: in the order of their labels, or shuffled anew for "
        "each seed.",
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
        0.1, gt=0, description="Step size of the optimizer.", json_schema_extra={"scale": "log", "strong": "middle"}
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
        1.0,
        gt=0,
        description="Weight of the distillation penalty.",
        json_schema_extra={"scale": "log", "strong": "high"},
    )
    distillation_temperature: float = Field(
        2.0,
        gt=0,
        description="Softens teacher and student alike (τ).",
        json_schema_extra={"scale": "log", "strong": "middle"},
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
    distance: Literal["cross_entropy", "kl", "mse"] = Field(
        "cross_entropy",
        description="Between teacher and student: cross-entropy (as published), Kullback-Leibler divergence (the same "
        "gradient) or mean squared error of logits (no temperature).",
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
        json_schema_extra={"scale": "log", "strong": "high"},
    )
    penalty_p_norm: float = Field(
        2.0,
        ge=1,
        description="Exponent p of the parameter distance.",
        json_schema_extra={"scale": "linear", "strong": "low"},
    )
    fisher: Literal["empirical", "sampled", "exact", "batch"] = Field(
        "empirical",
        description="Fisher information: of single samples at their true labels, at labels drawn from the model, "
        "expected over labels; or of batch means at true labels (about 1/batch size of empirical).",
    )
    fisher_scale: Literal["none", "per_parameter", "unit_trace"] = Field(
        "none", description="Divide the Fisher information by nothing, the number of backbone parameters, or its sum."
    )
    fisher_samples: int | None = Field(
        None, ge=1, description="Samples of a task that its Fisher information is measured on. Unless given: all."
    )
    average_over_tasks: bool = Field(
        False, description="Divide the sum over old tasks by the number of the current task."
    )
    anchors: Literal["separate", "online"] = Field(
        "separate",
        description="Earlier parameters to hold on to: those after each task, or the newest with importances summed.",
    )
    gamma: float = Field(
        1.0, ge=0, le=1, description="What online anchors keep of earlier importances at each task (1: all of them)."
    )
