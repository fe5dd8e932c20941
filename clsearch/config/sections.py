"""Sections of a configuration: groups of fields, each field with its rule. Rules between fields are in `rules`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_serializer, field_validator

from clsearch.common.errors import did_you_mean
from clsearch.config.hyperparameters import Hyperparameter, LogRange
from clsearch.data.datasets import SOURCES, Source

DERIVED: Any = None
"""Default of a field whose default is derived from other fields, see `trial.derived_defaults`."""


class Scenario(StrEnum):
    """The three scenarios of van de Ven et al. 2022."""

    TASK = "task"
    DOMAIN = "domain"
    CLASS = "class"


class Kind(StrEnum):
    """How a benchmark makes tasks of a source."""

    SPLIT = "split"
    PERMUTED = "permuted"
    ROTATED = "rotated"


FOLDER = "folder:"
"""Beginning of the name of a split benchmark of the user's own images; their folder follows."""

EVERY_KIND = ("digits", "mnist", "fashion-mnist", "kmnist")
"""Sources whose images are also permuted and rotated; of the others, benchmarks are split."""

BENCHMARKS: dict[str, tuple[Kind, str]] = {
    f"{kind}-{source}": (kind, source)
    for source in SOURCES
    for kind in (Kind if source in EVERY_KIND else (Kind.SPLIT,))
}
"""Name of each benchmark of a source that has a name -> (kind, source)."""

BACKBONES = ("mlp", "cnn", "resnet18")


def at_home(path: Path) -> Path:
    """A path with `~` filled in. Raises ValueError where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("must lie in a home that exists") from None


class Section(BaseModel):
    """A group of fields: frozen, no unknown keys, no NaN or infinity. Its docstring is its heading in `--help`.

    A field whose annotation has a `Hyperparameter` may be searched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def hyperparameters_in(sections: Iterable[type[BaseModel]]) -> dict[str, Hyperparameter]:
    """The fields of some sections that may be searched."""
    return {
        name: mark
        for section in sections
        for name, field in section.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Hyperparameter)
    }


class BenchmarkConfig(Section):
    """Benchmark"""

    benchmark: str = Field("split-digits", description="The sequence of tasks; folder:PATH for images of your own.")
    scenario: Scenario = Field(
        DERIVED,
        validate_default=False,
        description="Scenario: task-, domain- or class-incremental. Unless given: task for split, domain for "
        "permuted and rotated benchmarks.",
    )
    tasks: int = Field(
        DERIVED,
        ge=2,
        validate_default=False,
        description="Number of tasks. Unless given: two classes a task for split benchmarks (10 tasks where "
        "that were over 20), 10 for permuted and rotated ones.",
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
    grouping: Path | None = Field(
        None,
        description="File that says which classes each task of a split benchmark has: a line per task, names of "
        "classes between commas.",
    )
    data_root: Path | None = Field(
        None, description="Folder of downloaded data sets, in torchvision's layout (digits need none)."
    )
    image_size: int | None = Field(
        None,
        ge=4,
        le=1024,
        description="Height and width that the images of folder:PATH are brought to. Unless given: their own, the same "
        "for all.",
    )
    image_channels: Literal[1, 3] | None = Field(
        None,
        description="Whether images of folder:PATH are made grey (1) or colour (3). Unless given: as they are, all "
        "the same.",
    )
    random_crop: int = Field(
        0, ge=0, description="Training images are padded by this many pixels and cropped at random; 0 for none."
    )
    horizontal_flip: bool = Field(False, description="Training images are mirrored at random, one in two.")

    _source: Source = PrivateAttr()

    @property
    def kind(self) -> Kind:
        return Kind.SPLIT if self.benchmark.startswith(FOLDER) else BENCHMARKS[self.benchmark][0]

    @property
    def source(self) -> Source:
        """What is known of the benchmark's data."""
        return self._source

    @property
    def augmented(self) -> bool:
        """Whether training images differ each time they are seen."""
        return self.random_crop > 0 or self.horizontal_flip

    @field_validator("benchmark")
    @classmethod
    def _known(cls, value: str) -> str:
        if value.startswith(FOLDER) and value != FOLDER:
            return f"{FOLDER}{at_home(Path(value.removeprefix(FOLDER))).resolve()}"
        if value not in BENCHMARKS:
            known = f"must be one of {', '.join(BENCHMARKS)}, or {FOLDER}PATH"
            raise ValueError(f"{known}{did_you_mean(value, BENCHMARKS)}")
        return value

    @field_validator("data_root", "grouping")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        """Workers run in other directories."""
        return None if value is None else at_home(value).resolve()


class NetworkConfig(Section):
    """Network"""

    backbone: Any = Field(
        "mlp",
        description="What stands below the head: mlp, cnn (two convolutions), resnet18 (with GroupNorm); from Python "
        "also a function of an input's shape (C, H, W) that makes a torch.nn.Module.",
    )
    hidden: tuple[int, ...] = Field(
        DERIVED,
        validate_default=False,
        description="Widths of the linear layers of mlp, or of cnn after its convolutions. Unless given: 256 256 for "
        "mlp, 128 for cnn.",
    )

    @field_validator("backbone")
    @classmethod
    def _made(cls, value: Any) -> Any:
        a_module = hasattr(value, "named_parameters") and not isinstance(value, type)
        if a_module or not (callable(value) or value in BACKBONES):
            raise ValueError(f"must be one of {', '.join(BACKBONES)}, or in Python a function that makes a new module")
        return value

    @field_serializer("backbone")
    def _named(self, value: Any) -> str:
        return backbone_name(value)


def backbone_name(backbone: Any) -> str:
    """How a backbone is written: its name, or where its function is defined, with the arguments of a partial."""
    if isinstance(backbone, str):
        return backbone
    if isinstance(backbone, partial):
        words = [*map(_word, backbone.args), *(f"{name}={_word(value)}" for name, value in backbone.keywords.items())]
        return f"{backbone_name(backbone.func)}({', '.join(words)})"
    made = backbone if hasattr(backbone, "__qualname__") else type(backbone)
    return f"{made.__module__}.{made.__qualname__}"


def _word(argument: Any) -> str:
    """An argument as it is written; a function's own repr has an address, which differs between processes."""
    return backbone_name(argument) if callable(argument) else repr(argument)


class TrainingConfig(Section):
    """Training"""

    epochs: int | None = Field(None, ge=1, description="Passes over each task's data (or give --iterations).")
    iterations: int | None = Field(None, ge=1, description="Training steps per task (or give --epochs).")
    batch_size: int = Field(32, ge=1, description="Samples per step.")
    learning_rate: Annotated[float, Hyperparameter(LogRange(1e-4, 1.0), symbol="lr")] = Field(
        0.1, gt=0, description="Step size of the optimizer."
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="Optimizer.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay (L2 for sgd and adam, decoupled for adamw).")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="What the backbone computes in while it trains: bfloat16 (torch.autocast) is faster on GPUs that "
        "have it. Parameters, penalties, teachers and measurements stay float32.",
    )
    optimizer_state: Literal["reset", "keep"] = Field(
        "reset", description="Whether momentum and the like start anew at each task."
    )
    schedule: Literal["constant", "cosine", "step"] = Field(
        "constant", description="How the learning rate falls within a task; it starts anew at each."
    )
    warmup: float = Field(
        0.0, ge=0, lt=1, description="Share of a task's steps in which the learning rate first rises linearly."
    )
    milestones: tuple[float, ...] = Field(
        (0.5, 0.75),
        min_length=1,
        description="Shares of a task's steps (after the warm-up) at which the step schedule lowers the learning rate.",
    )
    decay: float = Field(
        0.1, gt=0, lt=1, description="What the step schedule multiplies the learning rate by at each milestone."
    )


COMMON_SECTIONS: tuple[type[Section], ...] = (BenchmarkConfig, NetworkConfig, TrainingConfig)
"""Sections that act in every algorithm."""
