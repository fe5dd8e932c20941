"""The two interfaces of a method: its declaration (`Method`) and its terms of the loss (`Regularizer`).

A regularizer is stateless. It keeps tensors of earlier tasks in a dict (the memory), which is part of the trial's
state. It is prepared once before a task: it computes everything that is constant during the task and returns the
function that each training step calls. So a step of LwF, or of EWC with p = 2, costs the same at task 20 as at task 2;
with another p the cost grows with the number of old tasks.

Importing this module does not load torch, so a declaration adds no start-up time to a command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from clsearch.config.domains import Domains
from clsearch.config.hyperparameters import Hyperparameter
from clsearch.config.sections import COMMON_SECTIONS, Section, hyperparameters_in
from clsearch.config.trial import TrialConfig
from clsearch.config.unlearning import UnlearningConfig

if TYPE_CHECKING:
    from torch import Tensor

    from clsearch.networks.mlp import Network, Params
    from clsearch.tasks.benchmark import Benchmark, Task
    from clsearch.tasks.samples import Batch

Memory: TypeAlias = "dict[str, Tensor]"
"""Tensors of earlier tasks: `<kind>/<task>/<parameter>` -> [M, ...]."""

Hyperparameters: TypeAlias = "dict[str, Tensor]"
"""Name -> [M], one value per member."""


@dataclass(frozen=True)
class PenaltyOutput:
    """The value of a penalty on one batch.

    Args:
        penalty: [M], term of each member's loss, multiplied by its factor.
        logged: Name -> [M], further values for the learning curve; the names are the regularizer's `logs`.

    Example:
        >>> import torch
        >>> PenaltyOutput(penalty=torch.tensor([0.5, 0.25]), logged={"kl": torch.tensor([0.2, 0.1])}).penalty
        tensor([0.5000, 0.2500])
    """

    penalty: Tensor
    logged: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Student:
    """The network in training, on one batch of B samples.

    The parameters change in place after the step: clone the ones that you keep.

    Args:
        params: Name -> [M, ...].
        features: [M, B, H], features of the backbone.
        logits: [M, B, C].
        inputs: [M, B, D], augmented.
    """

    params: Params
    features: Tensor
    logits: Tensor
    inputs: Tensor


Penalty: TypeAlias = "Callable[[Student, Batch], PenaltyOutput]"
"""(student, batch of the task's training data) -> the penalty on this batch."""


class Regularizer(Protocol):
    """A term of the loss that retains earlier tasks; it is stateless.

    M is the number of members, B the batch size, H the number of features, C that of outputs.

    One whose `remember` reads numbers in which members of a cohort can differ also has `for_members(differing)`, which
    returns it with those in which they do: name -> [M].
    """

    @property
    def logs(self) -> tuple[str, ...]:
        """Names of the values in `PenaltyOutput.logged`."""
        ...

    @property
    def trains_head(self) -> bool:
        """True if its gradient reaches the outputs of earlier tasks."""
        ...

    def prepare(
        self, network: Network, benchmark: Benchmark, task: Task, memory: Memory, hyperparameters: Hyperparameters
    ) -> Penalty | None:
        """Build the penalty of a task.

        Args:
            network: Backbone and head over stacked members.
            benchmark: The sequence of tasks, with the active outputs.
            task: The task to learn next.
            memory: Tensors of earlier tasks, `<kind>/<task>/<parameter>` -> [M, ...].
            hyperparameters: Name -> [M], every number of the configuration that members can differ in: those of the
                method, the learning rate, momentum and the like.

        Returns:
            The function that each training step calls; None if there is no earlier task, as at the first one.
        """
        ...

    def remember(self, network: Network, benchmark: Benchmark, task: Task, params: Params, memory: Memory) -> Memory:
        """Add the tensors of a learned task to the memory.

        Args:
            network: Backbone and head over stacked members.
            benchmark: The sequence of tasks, with the active outputs.
            task: The task that was learned.
            params: Name -> [M, ...], the parameters after the task.
            memory: Tensors of earlier tasks; entries of other regularizers must not change.

        Returns:
            The new memory.
        """
        ...


class TrainingScheme(Enum):
    """The network and the data that task t trains.

    CONTINUAL: the same network for all tasks, on task t. JOINT: a fresh network, on tasks 1..t together. INDEPENDENT: a
    fresh network, on task t; only this one predicts task t.
    """

    CONTINUAL = auto()
    JOINT = auto()
    INDEPENDENT = auto()


Build = Callable[[TrialConfig], Regularizer]
"""Makes a regularizer from a configuration."""


@dataclass(frozen=True)
class Method:
    """The declaration of a continual-learning method; all properties of the method derive from it.

    Args:
        name: Name in options, records and on command lines: letters, digits and underscores.
        label: Name in text and tables.
        summary: One sentence with the source.
        section: Fields of the configuration of this method; fields marked with `Hyperparameter` can be searched.
        build: Makes its regularizer; None for a method that adds nothing to the loss.
        parts: Methods that it combines: their sections, regularizers, rules and defaults also apply.
        scheme: Network and data that each task trains.
        unlearns: True if tasks can be unlearned on request.
        base: Name of the method without unlearning.
        derive: (settings, including the scenario) -> defaults of fields of `section` that depend on others.
        rules: Each maps a configuration to its problems, one `clsearch.Refusal` each (or a plain line "field: rule;
            got value").
        unsearchable: (settings) -> hyperparameter that has no effect with them -> reason.
        ranges: (configuration) -> default ranges that depend on the configuration.
        presets: Name -> settings that reproduce other software.
        trainable: Name of its Trainable class; None joins the label and `Trainable`.
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
    rules: tuple[Callable[[TrialConfig], Sequence[str]], ...] = ()
    unsearchable: Callable[[Mapping[str, Any]], dict[str, str]] | None = None
    ranges: Callable[[TrialConfig], Domains] | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trainable: str | None = None

    @property
    def all_parts(self) -> tuple[Method, ...]:
        """The methods that it combines, then the method itself."""
        return (*(each for part in self.parts for each in part.all_parts), self)

    @property
    def own_sections(self) -> tuple[type[Section], ...]:
        """Sections of the methods that it combines, without those that every method has."""
        return tuple(part.section for part in self.all_parts if part.section is not None)

    @property
    def sections(self) -> tuple[type[Section], ...]:
        """All sections of its configuration."""
        return (*COMMON_SECTIONS, *self.own_sections, *((UnlearningConfig,) if self.unlearns else ()))

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of its configuration's fields, in the order of the sections."""
        return tuple(name for section in self.sections for name in section.model_fields)

    @property
    def own_hyperparameters(self) -> dict[str, Hyperparameter]:
        """Searchable fields that not every method has."""
        return hyperparameters_in(self.own_sections)

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """All searchable fields."""
        return hyperparameters_in(self.sections)

    @property
    def builders(self) -> tuple[Build, ...]:
        """The functions that make its regularizers."""
        return tuple(part.build for part in self.all_parts if part.build is not None)

    @property
    def trainable_name(self) -> str:
        """Name of its Trainable class."""
        return self.trainable or f"{self.label}Trainable"

    def derived_defaults(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of its fields that depend on other fields.

        Args:
            settings: Flat: field -> value, including the scenario.
        """
        return {k: v for part in self.all_parts if part.derive for k, v in part.derive(settings).items()}

    def problems(self, config: TrialConfig) -> list[str]:
        """List the violations of its rules in a configuration, one line each."""
        return [problem for part in self.all_parts for rule in part.rules for problem in rule(config)]

    def idle_hyperparameters(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the hyperparameters without effect under flat settings, each with the reason."""
        return {k: v for part in self.all_parts if part.unsearchable for k, v in part.unsearchable(settings).items()}

    @property
    def search_space(self) -> Domains:
        """Its own hyperparameters with their ranges; if there are none, those of every method.

        A method that unlearns never searches the learning rate, because all its trials are compared with one reference
        trained with that rate.
        """
        searched = self.own_hyperparameters or ({} if self.unlearns else self.hyperparameters)
        return {name: mark.range for name, mark in searched.items()}

    def default_space(self, config: TrialConfig) -> Domains:
        """Return the ranges that a study of a configuration searches if it names none."""
        space = self.search_space
        for part in self.all_parts:
            space |= part.ranges(config) if part.ranges else {}
        idle = self.idle_hyperparameters(config.flat())
        return {name: bounds for name, bounds in space.items() if name not in idle}

    def preset(self, name: str | None) -> dict[str, Any]:
        """Return the settings of a preset that apply to the method; empty for None."""
        return {k: v for part in self.all_parts for k, v in part.presets.get(name or "", {}).items()}

    def unlearning(self) -> Method:
        """Return the method with unlearning on request (Graves et al. 2021)."""
        label = f"Amnesiac{self.label[0].upper()}{self.label[1:]}"
        summary = f"{self.label[0].upper()}{self.label[1:]} that unlearns tasks on request (Graves et al. 2021)."
        parts = (self,) if self.own_sections else ()
        return Method(f"amnesiac_{self.name}", label, summary, parts=parts, unlearns=True, base=self.name)


def recall(memory: Memory, prefix: str) -> Params:
    """Return the entries of a memory with a prefix, by their names without it."""
    return {name.removeprefix(prefix): value for name, value in memory.items() if name.startswith(prefix)}
