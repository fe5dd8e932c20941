"""An algorithm is a tuple of regularizers and a course through the tasks. Finetuning is the empty tuple."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from clsearch.config.trial import TrialConfig
from clsearch.methods.base import Regularizer
from clsearch.methods.distillation import Distillation
from clsearch.methods.fisher import Fisher
from clsearch.methods.parameter_change import ParameterChange
from clsearch.methods.registry import OWN


class Course(Enum):
    """What is trained, on what, at task t.

    CONTINUAL: the one network, on task t. JOINT: a fresh one, on tasks 1..t together. INDEPENDENT: a fresh one, on task
    t, which alone answers for it.
    """

    CONTINUAL = auto()
    JOINT = auto()
    INDEPENDENT = auto()


@dataclass(frozen=True)
class Algorithm:
    """build: what makes each regularizer of a configuration."""

    build: tuple[Callable[[TrialConfig], Regularizer], ...] = ()
    course: Course = Course.CONTINUAL


def distillation(config: TrialConfig) -> Regularizer:
    """The distillation that a configuration asks for."""
    return Distillation(
        newest_only=config.teachers == "last",
        train_head=config.train_head,
        distance=config.distance,
        squared=config.temperature_scaling == "squared",
        afresh=config.augmented,
        visits=config.iterations and config.iterations * config.batch_size,
        keep_all=config.amnesiac and newest_may_go(config),
    )


def newest_may_go(config: TrialConfig) -> bool:
    """Whether the task that was learned last may be unlearned: where a request says so, and where there is none, which
    leaves it to the caller.
    """
    requests = config.requests
    return not config.disable_unlearning and (not requests or any(at in tasks for at, tasks in requests.items()))


def parameter_change(config: TrialConfig) -> Regularizer:
    """The parameter-change penalty that a configuration asks for."""
    return ParameterChange(
        merged=config.penalty_p_norm == 2,
        average=config.average_over_tasks,
        fisher=Fisher(config.fisher, config.fisher_samples, config.batch_size),
        scale=config.fisher_scale,
        online=config.gamma if config.anchors == "online" else None,
    )


ALGORITHMS: dict[str, Algorithm] = {
    "finetuning": Algorithm(),
    "joint": Algorithm(course=Course.JOINT),
    "independent": Algorithm(course=Course.INDEPENDENT),
    "lwf": Algorithm((distillation,)),
    "ewc": Algorithm((parameter_change,)),
    "lwf_ewc": Algorithm((distillation, parameter_change)),
    "amnesiac_finetuning": Algorithm(),
    "amnesiac_lwf": Algorithm((distillation,)),
    "amnesiac_ewc": Algorithm((parameter_change,)),
}
"""Name -> algorithm. The first three are references: no memory, lower bound; all data, upper; one network per task. The
amnesiac ones learn as the others do, and can unlearn tasks, see `unlearning`.
"""


def algorithm_named(name: str) -> Algorithm:
    """An algorithm of here, or one that was registered."""
    return ALGORITHMS[name] if name in ALGORITHMS else Algorithm(OWN[name].build)
