"""An algorithm is a tuple of regularizers. Finetuning is the empty one."""

from __future__ import annotations

from collections.abc import Callable

from clsearch.core.config import TrialConfig
from clsearch.core.regularizers import Distillation, ParameterChange, Regularizer


def distillation(config: TrialConfig) -> Regularizer:
    """The distillation that a configuration asks for."""
    return Distillation(
        newest_only=config.teachers == "last",
        train_head=config.train_head,
        squared=config.temperature_scaling == "squared",
    )


def parameter_change(config: TrialConfig) -> Regularizer:
    """The parameter-change penalty that a configuration asks for."""
    return ParameterChange(merged=config.penalty_p_norm == 2, average=config.average_over_tasks)


ALGORITHMS: dict[str, tuple[Callable[[TrialConfig], Regularizer], ...]] = {
    "finetuning": (),
    "lwf": (distillation,),
    "ewc": (parameter_change,),
}
"""Name -> what builds its regularizers."""
