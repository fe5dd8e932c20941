"""The parts of a configuration that methods have: groups of fields, each with its rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from clsearch.config.sections import FOLLOWS, Part


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


Requests = dict[int, tuple[int, ...]]
"""Task after which something is to be unlearned -> numbers of the tasks that are, in rising order."""


class UnlearningConfig(Part):
    """Unlearning"""

    unlearn: tuple[str, ...] = Field(
        (),
        description="Requests, AFTER:TASK each: 3:1 5:2 unlearns task 1 after task 3, and task 2 after task 5; 5:1,2 "
        "both at once.",
    )
    unlearn_memories: Literal["as_is", "shift"] = Field(
        "as_is",
        description="What becomes of the teachers and anchors of tasks learned after an unlearned one: they stay, or "
        "its update is subtracted from them, too.",
    )
    disable_unlearning: bool = Field(
        False, description="Train the twin of which nothing is requested; it is measured on the same tasks."
    )
    unlearning_distance: Literal["euclidean", "cosine", "manhattan"] = Field(
        "euclidean",
        description="Between the backbone features of an image here and in a model that never saw the unlearned tasks.",
    )

    @field_validator("unlearn", mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        """From Python also a mapping of tasks, {3: 1, 5: (2, 4)}."""
        if not isinstance(value, Mapping):
            return value
        own = {at: tuple(tasks) if isinstance(tasks, list | tuple | set) else (tasks,) for at, tasks in value.items()}
        return tuple(f"{at}:{','.join(map(str, tasks))}" for at, tasks in own.items())

    @field_validator("unlearn")
    @classmethod
    def _sorted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """One way to write the same requests."""
        return tuple(f"{at}:{','.join(map(str, tasks))}" for at, tasks in requests_of(value).items())

    @property
    def requests(self) -> Requests:
        """What is to be unlearned when."""
        return requests_of(self.unlearn)


def requests_of(words: tuple[str, ...]) -> Requests:
    """Requests as they are written, in the order of their moments. Raises ValueError with the rule."""
    found: dict[int, list[int]] = {}
    for word in words:
        at, _, tasks = word.partition(":")
        if not all(number.isascii() and number.isdecimal() for number in (at, *tasks.split(","))):
            raise ValueError("must be requests as 3:1 (after task 3 unlearn task 1), with commas between several tasks")
        found[int(at)] = [*found.get(int(at), []), *map(int, tasks.split(","))]
    return {at: tuple(sorted(found[at])) for at in sorted(found)}


def unlearned_by(requests: Requests, t: int) -> frozenset[int]:
    """The tasks that are unlearned once task t was learned, and what was requested then was done."""
    return frozenset(task for at, tasks in requests.items() if at <= t for task in tasks)


def request_problems(words: tuple[str, ...], tasks: int) -> list[str]:
    """What is wrong with requests in a sequence of this many tasks."""
    problems, gone, shown = [], set[int](), " ".join(words)
    for at, asked in requests_of(words).items():
        if not 1 <= at <= tasks:
            problems.append(f"unlearn: a request must come after one of the {tasks} tasks; got {shown}")
        elif not all(1 <= task <= at for task in asked):
            problems.append(f"unlearn: a task must have been learned before it is unlearned; got {shown}")
        elif len({*asked}) < len(asked) or gone & {*asked}:
            problems.append(f"unlearn: a task can be unlearned only once; got {shown}")
        gone |= {*asked}
        if len(gone) >= at:
            problems.append(f"unlearn: a request must leave one of the tasks learned so far; got {shown}")
    return list(dict.fromkeys(problems))
