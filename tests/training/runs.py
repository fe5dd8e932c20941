"""What tests of the training loop look at."""

from torch import Tensor

from clsearch.tasks.benchmark import Task
from clsearch.training.task_setup import TaskSetup, prepare_task
from clsearch.training.trial_setup import TrialSetup

TASK, DOMAIN, CLASS = {"scenario": "task"}, {"scenario": "domain", "tasks": 5}, {"scenario": "class"}
SCENARIOS = [TASK, DOMAIN, CLASS]
GROUPS = [slice(0, 4), slice(4, 7), slice(7, 10)]


def column(run: TrialSetup, curve: Tensor, name: str) -> Tensor:
    return curve[..., run.columns.index(name)]


def everything(samples) -> tuple[Tensor, Tensor]:
    (batch,) = samples.in_order(100_000)
    return samples.take(batch.positions)


def lesson_of(run: TrialSetup, task: Task) -> TaskSetup:
    """A first setup, whatever was learned before: enough for what does not depend on it."""
    return prepare_task(run, run.initial_state(), task)
