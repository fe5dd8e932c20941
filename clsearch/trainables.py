"""The Trainable class of every method, for use with your own Tuner.

    from ray import tune
    from clsearch.trainables import LwFTrainable

    space = {"distillation_factor": tune.loguniform(1e-2, 1e2), "epochs": 10}
    tune.Tuner(LwFTrainable, param_space=space).fit()

The classes are named after the methods: FinetuningTrainable, JointTrainable, IndependentTrainable, LwFTrainable,
EWCTrainable, LwFEWCTrainable, AmnesiacFinetuningTrainable, AmnesiacLwFTrainable, AmnesiacEWCTrainable.
"""

from clsearch.execution.trainable import ContinualTrainable, trainable_of
from clsearch.methods.registry import BUILT_IN

_METHODS = {method.trainable_name: method.name for method in BUILT_IN.values()}

__all__ = ["ContinualTrainable"]


def __getattr__(name: str) -> type[ContinualTrainable]:
    if name in _METHODS:
        return trainable_of(_METHODS[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_METHODS]
