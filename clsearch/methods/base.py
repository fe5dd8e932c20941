"""What continual learning adds to the loss: the form that `distillation` (LwF) and `parameter_change` (EWC) have.

A regularizer has no state of its own. What it must remember of earlier tasks is a dict of tensors (the memory), part
of the trial's state. Before a task it is prepared once: whatever does not change during the task is computed there,
and out comes the function that a training step calls. So a step of distillation, or of a penalty with p = 2, costs the
same at task 20 as at task 2; with another p it grows with the old tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from clsearch.methods.penalty_output import Terms
from clsearch.networks.mlp import Network, Params
from clsearch.tasks.benchmark import Benchmark, Task
from clsearch.tasks.samples import Batch

Memory = dict[str, Tensor]
Hyperparameters = dict[str, Tensor]
"""Name -> [M], one number per member."""


@dataclass(frozen=True)
class Student:
    """The network in training, on one batch: parameters, features [M, B, H], logits [M, B, C], and the inputs
    [M, B, D] that it saw, augmented. Parameters move in place once the step is over: clone what is kept of them.
    """

    params: Params
    features: Tensor
    logits: Tensor
    inputs: Tensor


Penalty = Callable[[Student, Batch], Terms]
"""(student, batch of the task's training data) -> Terms."""


class Regularizer(Protocol):
    """logs: names that its penalties log. trains_head: whether its gradient reaches outputs of earlier tasks."""

    @property
    def logs(self) -> tuple[str, ...]: ...

    @property
    def trains_head(self) -> bool: ...

    def prepare(
        self, network: Network, benchmark: Benchmark, task: Task, memory: Memory, hyperparameters: Hyperparameters
    ) -> Penalty | None:
        """The penalty of a task, or None where there is nothing to hold on to (the first task)."""
        ...

    def remember(self, network: Network, benchmark: Benchmark, task: Task, params: Params, memory: Memory) -> Memory:
        """Memory with what must be kept of a task just learned."""
        ...


def recalled(memory: Memory, prefix: str) -> Params:
    """The entries of a memory below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in memory.items() if name.startswith(prefix)}
