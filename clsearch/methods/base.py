"""The form that every method has: what it declares (`Method`) and what it adds to the loss (`Regularizer`).

A regularizer has no state of its own. What it must keep of earlier tasks is a dict of tensors (the memory), part of the
trial's state. Before a task it is prepared once: everything that stays constant during the task is computed there, and
it returns the function that a training step calls. So a step of LwF, or of EWC with p = 2, costs the same at task 20 as
at task 2; with another p it grows with the number of old tasks.

Importing this module loads no torch, so that a declaration costs a command line nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from clsearch.config.hyperparameters import Hyperparameter, Space
from clsearch.config.sections import COMMON_SECTIONS, Section, hyperparameters_in
from clsearch.config.trial import TrialConfig
from clsearch.config.unlearning import UnlearningConfig

if TYPE_CHECKING:
    from torch import Tensor

    from clsearch.networks.mlp import Network, Params
    from clsearch.tasks.benchmark import Benchmark, Task
    from clsearch.tasks.samples import Batch

Memory: TypeAlias = "dict[str, Tensor]"
"""What a trial keeps of earlier tasks: `<kind>/<task>/<parameter>` -> [M, ...]."""

Hyperparameters: TypeAlias = "dict[str, Tensor]"
"""Name -> [M], one number per member."""


@dataclass(frozen=True)
class PenaltyOutput:
    """The value of a penalty on one batch.

    Args:
        penalty: [M], the term of each member's loss, factor included.
        logged: Name -> [M], reported beside it in the learning curve.
    """

    penalty: Tensor
    logged: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Student:
    """The network in training, on one batch. Parameters move in place after the step: clone what is kept of them.

    Args:
        params: Parameter -> [M, ...].
        features: [M, B, H], of the backbone.
        logits: [M, B, C].
        inputs: [M, B, D] as the student sees them, augmented.
    """

    params: Params
    features: Tensor
    logits: Tensor
    inputs: Tensor


Penalty: TypeAlias = "Callable[[Student, Batch], PenaltyOutput]"
"""(student, batch of the task's training data) -> the penalty on it."""


class Regularizer(Protocol):
    """A term of the loss that holds on to earlier tasks. It has no state of its own."""

    @property
    def logs(self) -> tuple[str, ...]:
        """Names that its penalties log beside the penalty."""
        ...

    @property
    def trains_head(self) -> bool:
        """Whether its gradient reaches the outputs of earlier tasks."""
        ...

    def prepare(
        self, network: Network, benchmark: Benchmark, task: Task, memory: Memory, hyperparameters: Hyperparameters
    ) -> Penalty | None:
        """Build the penalty of a task, or None where there is nothing to hold on to (the first task).

        Args:
            network: Backbone and head over stacked members.
            benchmark: The sequence of tasks; says which outputs are active.
            task: The task that is learned next.
            memory: What earlier tasks left.
            hyperparameters: Name -> [M] of the method's own and the learning rate.
        """
        ...

    def remember(self, network: Network, benchmark: Benchmark, task: Task, params: Params, memory: Memory) -> Memory:
        """Return the memory with what must be kept of a task just learned.

        Args:
            network: As in `prepare`.
            benchmark: As in `prepare`.
            task: The task that was learned.
            params: The parameters that it left, [M, ...] each.
            memory: What earlier tasks left; entries of others stay as they are.
        """
        ...


class TrainingScheme(Enum):
    """The network that is trained at task t, and its data.

    CONTINUAL: the one network, on task t. JOINT: a fresh one, on tasks 1..t together. INDEPENDENT: a fresh one, on task
    t, which alone answers for it.
    """

    CONTINUAL = auto()
    JOINT = auto()
    INDEPENDENT = auto()


Build = Callable[[TrialConfig], Regularizer]
"""Makes a regularizer of a configuration."""


@dataclass(frozen=True)
class Method:
    """A continual-learning method, declared: everything else about it follows from this value.

    Args:
        name: In options, records and on command lines.
        label: As people write it.
        summary: One sentence with its source.
        section: Its own fields of the configuration; those marked with `Hyperparameter` may be searched.
        build: Makes its regularizer; None for a method that adds nothing to the loss.
        parts: Methods that it joins: their sections, regularizers, rules and defaults are its own, too.
        scheme: What is trained at each task, and on which data.
        unlearns: Whether tasks can be unlearned on request.
        base: The method that it is without unlearning.
        derive: (settings, the scenario among them) -> defaults of fields of `section` that depend on others.
        rules: Each gives the problems of a configuration, one line per problem: field, rule, value.
        unsearchable: (settings) -> hyperparameter that cannot act under them -> the reason.
        ranges: (configuration) -> default ranges that depend on the configuration.
        presets: Name -> settings as other software has them.
        trainable: Name of its Trainable class; by default the label and `Trainable`.
    """

    name: str
    label: str
    summary: str = ""
    section: type[Section] | None = None
    build: Build | None = None
    parts: tuple[Method, ...] = ()
    scheme: TrainingScheme = TrainingScheme.CONTINUAL
    unlearns: bool = False
    base: str | None = None
    derive: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    rules: tuple[Callable[[TrialConfig], list[str]], ...] = ()
    unsearchable: Callable[[Mapping[str, Any]], dict[str, str]] | None = None
    ranges: Callable[[TrialConfig], Space] | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trainable: str | None = None

    @property
    def all_parts(self) -> tuple[Method, ...]:
        """The methods that it joins, itself last."""
        return (*(own for part in self.parts for own in part.all_parts), self)

    @property
    def own_sections(self) -> tuple[type[Section], ...]:
        """Sections that methods have and the loop has not."""
        return tuple(part.section for part in self.all_parts if part.section is not None)

    @property
    def sections(self) -> tuple[type[Section], ...]:
        """All sections of the configuration that act in it."""
        return (*COMMON_SECTIONS, *self.own_sections, *((UnlearningConfig,) if self.unlearns else ()))

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that act in it, in the order of the sections."""
        return tuple(name for section in self.sections for name in section.model_fields)

    @property
    def own_hyperparameters(self) -> dict[str, Hyperparameter]:
        """What may be searched in it and not in every method."""
        return hyperparameters_in(self.own_sections)

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """What may be searched in it."""
        return hyperparameters_in(self.sections)

    @property
    def builders(self) -> tuple[Build, ...]:
        """What makes each of its regularizers."""
        return tuple(part.build for part in self.all_parts if part.build is not None)

    @property
    def trainable_name(self) -> str:
        """Name of its Trainable class."""
        return self.trainable or f"{self.label}Trainable"

    def derived_defaults(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults of its fields that depend on others. settings: flat, scenario included."""
        return {k: v for part in self.all_parts if part.derive for k, v in part.derive(settings).items()}

    def problems(self, config: TrialConfig) -> list[str]:
        """What is against its rules, one line per problem."""
        return [problem for part in self.all_parts for rule in part.rules for problem in rule(config)]

    def idle_hyperparameters(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Hyperparameters that cannot act under flat settings -> the reason."""
        return {k: v for part in self.all_parts if part.unsearchable for k, v in part.unsearchable(settings).items()}

    @property
    def search_space(self) -> Space:
        """Its own hyperparameters with their ranges; those of every method if it has none. A method that unlearns keeps
        the learning rate: all trials are measured against one model trained with it.
        """
        searched = self.own_hyperparameters or ({} if self.unlearns else self.hyperparameters)
        return {name: mark.range for name, mark in searched.items()}

    def default_space(self, config: TrialConfig) -> Space:
        """The ranges that a study of a configuration searches if it names none."""
        space = self.search_space
        for part in self.all_parts:
            space |= part.ranges(config) if part.ranges else {}
        return {name: own for name, own in space.items() if name not in self.idle_hyperparameters(config.flat())}

    def preset(self, name: str | None) -> dict[str, Any]:
        """The settings of a preset that act in it."""
        return {k: v for part in self.all_parts for k, v in part.presets.get(name or "", {}).items()}

    def unlearning(self) -> Method:
        """The method with unlearning on request (Graves et al. 2021)."""
        label = f"Amnesiac{self.label[0].upper()}{self.label[1:]}"
        summary = f"{self.label[0].upper()}{self.label[1:]} that unlearns tasks on request (Graves et al. 2021)."
        parts = (self,) if self.own_sections else ()
        return Method(f"amnesiac_{self.name}", label, summary, parts=parts, unlearns=True, base=self.name)


def recall(memory: Memory, prefix: str) -> Params:
    """The entries of a memory below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in memory.items() if name.startswith(prefix)}
