"""Sections of a configuration: groups of fields, each field with its bounds. Rules between fields are in `rules`."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_serializer, field_validator

from clsearch.common.echo import MOST_OF_REPR, echo, shorten
from clsearch.common.errors import RuleError, did_you_mean
from clsearch.common.redaction import is_control
from clsearch.config.domains import LogRange
from clsearch.config.hyperparameters import Hyperparameter, PerMember, Scale
from clsearch.config.plain_values import backbone_name
from clsearch.data.datasets import SOURCES, Source

DERIVED: Any = None
"""Default of a field that follows other fields, see `trial.derived_defaults`."""


class Scenario(StrEnum):
    """The three scenarios of van de Ven et al. 2022."""

    TASK = "task"
    DOMAIN = "domain"
    CLASS = "class"


class TaskConstruction(StrEnum):
    """How a benchmark makes tasks from a data source."""

    SPLIT = "split"
    PERMUTED = "permuted"
    ROTATED = "rotated"


FOLDER = "folder:"
"""Prefix of a split benchmark of the user's own images; the path of their folder follows."""

EVERY_KIND = ("digits", "mnist", "fashion-mnist", "kmnist")
"""Sources that have permuted and rotated benchmarks; the others have split ones only."""

BENCHMARKS: dict[str, tuple[TaskConstruction, str]] = {
    f"{kind}-{source}": (kind, source)
    for source in SOURCES
    for kind in (TaskConstruction if source in EVERY_KIND else (TaskConstruction.SPLIT,))
}
"""Name of each benchmark of a named source -> (kind, source)."""

BACKBONES = ("mlp", "cnn", "resnet18")


ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""Beginning of an address; `Path` drops one of its two slashes."""

WHOLE_NUMBERS = range(-(2**63), 2**63)
"""Whole numbers that every table and library takes."""


def to_local_path(path: Path) -> Path:
    """Expand `~` in a path. Raises ValueError if this machine cannot have such a path."""
    if ADDRESS.match(str(path)):
        raise RuleError("path-local", "must be a path on this machine, not an address")
    try:
        path = path.expanduser()
        path.lstat()
    except RuntimeError:
        raise RuleError("home-exists", "must lie in a home that exists") from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise RuleError("path-possible", f"must be a path that a disk can have ({error.strerror})") from None
    return path


def check_text(value: Any) -> None:
    """Check that a text, or each of several, is not empty and has no control characters. Raises ValueError."""
    for text in value if isinstance(value, list | tuple) else (value,):
        if isinstance(text, Path):
            text = str(text)
        if not isinstance(text, str):
            continue
        if not text.strip():
            raise RuleError("not-empty", "must not be empty")
        if any(map(is_control, text)):
            raise RuleError("no-control-characters", "must have no control characters")


class Section(BaseModel):
    """A group of fields: frozen, no unknown keys, no NaN or infinity. Its docstring is its heading in `--help`.

    A study searches by default the fields whose annotation has a `Hyperparameter`; members of a cohort can differ in
    these and in those that have a `PerMember`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _readable(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse an empty text, which would be the working directory as a path, and control characters."""
        if value is not cls.model_fields[str(info.field_name)].default:
            check_text(value)
        return value

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        """Refuse a whole number that tables and libraries do not take."""
        numbers = value if isinstance(value, tuple) else (value,)
        if any(type(number) is int and number not in WHOLE_NUMBERS for number in numbers):
            raise RuleError("whole-number-64-bits", "must lie between -2^63 and 2^63 - 1")
        return value

    def __repr__(self) -> str:
        """Write the settings that differ from their defaults, shortly and without secrets."""
        fields, own = type(self).model_fields, vars(self)
        shown = [f"{name}={echo(value)}" for name, value in own.items() if value is not fields[name].default]
        return f"{type(self).__name__}({shorten(', '.join(shown), MOST_OF_REPR)})"

    __str__ = __repr__


def hyperparameters_in(sections: Iterable[type[BaseModel]]) -> dict[str, Hyperparameter]:
    """Find the fields of some sections that a study searches by default: name -> its mark."""
    return {name: mark for name, mark in numbers_in(sections).items() if isinstance(mark, Hyperparameter)}


def numbers_in(sections: Iterable[type[BaseModel]]) -> dict[str, Hyperparameter | PerMember]:
    """Find the numbers that members of a cohort can differ in: name -> its mark."""
    return {
        name: mark
        for section in sections
        for name, field in section.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Hyperparameter | PerMember)
    }


class BenchmarkConfig(Section):
    """Benchmark"""

    benchmark: str = Field("split-digits", description="Sequence of tasks; folder:PATH for your own images.")
    scenario: Scenario = Field(
        DERIVED,
        validate_default=False,
        description="Task-, domain- or class-incremental learning. If not given: task for split benchmarks, domain for "
        "permuted and rotated ones.",
    )
    tasks: int = Field(
        DERIVED,
        ge=2,
        validate_default=False,
        description="Number of tasks. If not given: two classes per task for split benchmarks (10 tasks if that makes "
        "more than 20), 10 tasks for permuted and rotated ones.",
    )
    classes_per_task: tuple[int, ...] | None = Field(
        None,
        description="Number of classes of each task of a split benchmark, such as 4 2 2 2. If not given: as equal as "
        "possible.",
    )
    class_order: Literal["fixed", "shuffled"] = Field(
        "fixed",
        description="Order in which a split benchmark assigns classes to tasks: by label (fixed), or shuffled for each "
        "seed.",
    )
    grouping: Path | None = Field(
        None,
        description="File that lists the classes of each task of a split benchmark: one line per task, names of "
        "classes separated by commas.",
    )
    data_root: Path | None = Field(
        None, description="Folder of downloaded data sets in torchvision's layout; digits need none."
    )
    image_size: int | None = Field(
        None,
        ge=4,
        le=1024,
        description="Height and width to which images of folder:PATH are resized. If not given: their own, the same "
        "for all.",
    )
    image_channels: Literal[1, 3] | None = Field(
        None,
        description="Convert images of folder:PATH to grey (1) or colour (3). If not given: as they are, the same for "
        "all.",
    )
    random_crop: int = Field(
        0, ge=0, description="Pad training images by this many pixels and crop them at random; 0 for no crops."
    )
    horizontal_flip: bool = Field(False, description="Mirror each training image with probability 1/2.")

    _source: Source = PrivateAttr()

    @property
    def kind(self) -> TaskConstruction:
        """How the benchmark makes tasks."""
        return TaskConstruction.SPLIT if self.benchmark.startswith(FOLDER) else BENCHMARKS[self.benchmark][0]

    @property
    def source(self) -> Source:
        """Description of the benchmark's data."""
        return self._source

    @property
    def augmented(self) -> bool:
        """Whether training images change from epoch to epoch."""
        return self.random_crop > 0 or self.horizontal_flip

    @field_validator("benchmark")
    @classmethod
    def _known(cls, value: str) -> str:
        if value.startswith(FOLDER) and value != FOLDER:
            return f"{FOLDER}{to_local_path(Path(value.removeprefix(FOLDER))).resolve()}"
        if value not in BENCHMARKS:
            known = f"must be one of {', '.join(BENCHMARKS)}, or {FOLDER}PATH"
            raise RuleError("benchmark-known", f"{known}{did_you_mean(value, BENCHMARKS)}")
        return value

    @field_validator("data_root", "grouping")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        """Make paths absolute: workers run in other directories."""
        return None if value is None else to_local_path(value).resolve()


class NetworkConfig(Section):
    """Network"""

    backbone: Any = Field(
        "mlp",
        description="Feature extractor below the head: mlp, cnn (two convolutions) or resnet18 (with GroupNorm); in "
        "Python also a function that takes an input's shape (C, H, W) and makes a torch.nn.Module.",
    )
    hidden: tuple[int, ...] = Field(
        DERIVED,
        validate_default=False,
        description="Widths of the linear layers of mlp, or of those after the convolutions of cnn. If not given: 256 "
        "256 for mlp, 128 for cnn.",
    )

    @field_validator("backbone")
    @classmethod
    def _made(cls, value: Any) -> Any:
        a_module = hasattr(value, "named_parameters") and not isinstance(value, type)
        if a_module or not (callable(value) or value in BACKBONES):
            rule = f"must be one of {', '.join(BACKBONES)}, or in Python a function that makes a new module"
            raise RuleError("backbone-known", rule)
        return value

    @field_serializer("backbone")
    def _named(self, value: Any) -> str:
        return backbone_name(value)


class TrainingConfig(Section):
    """Training"""

    epochs: int | None = Field(None, ge=1, description="Passes over the data of each task; or give --iterations.")
    iterations: int | None = Field(None, ge=1, description="Training steps per task; or give --epochs.")
    batch_size: Annotated[int, Scale(log=True)] = Field(32, ge=1, description="Samples per training step.")
    learning_rate: Annotated[float, Hyperparameter(LogRange(1e-4, 1.0), symbol="lr")] = Field(
        0.1, gt=0, description="Learning rate of the optimizer."
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="Optimizer.")
    momentum: Annotated[float, PerMember(apart=0.0)] = Field(0.0, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: Annotated[float, Scale(log=True), PerMember()] = Field(
        0.0, ge=0, description="Weight decay: L2 for sgd and adam, decoupled for adamw."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number format of the backbone in training: bfloat16 (torch.autocast) is faster on GPUs that "
        "support it. Parameters, penalties, teachers and evaluation stay float32.",
    )
    optimizer_state: Literal["reset", "keep"] = Field(
        "reset", description="Reset or keep the optimizer state (such as momentum) at each task."
    )
    schedule: Literal["constant", "cosine", "step"] = Field(
        "constant", description="Schedule of the learning rate within a task; it restarts at each task."
    )
    warmup: Annotated[float, PerMember(apart=0.0)] = Field(
        0.0, ge=0, lt=1, description="Share of a task's steps during which the learning rate first rises linearly."
    )
    milestones: tuple[float, ...] = Field(
        (0.5, 0.75),
        min_length=1,
        description="Shares of a task's steps (after the warm-up) at which the step schedule lowers the learning rate.",
    )
    decay: Annotated[float, PerMember()] = Field(
        0.1, gt=0, lt=1, description="Factor by which the step schedule multiplies the learning rate at each milestone."
    )


COMMON_SECTIONS: tuple[type[Section], ...] = (BenchmarkConfig, NetworkConfig, TrainingConfig)
"""Sections that act in every algorithm."""
