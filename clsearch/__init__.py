"""clsearch: which hyperparameters for continual learning, and how do you know?

Study                        one question, one search, one record
Comparison                   several studies and one table
SPACES, Range, LogRange, IntRange, Choice, When
                             search spaces
register, Method, Setting, Section, Hyperparameter, PenaltyOutput
                             a method of your own
ConfigError, Refusal         refused input
StudySettings                types of the keywords of Study
metrics                      functions of the accuracy matrix
trainables                   LwFTrainable, EWCTrainable, ... for a Tuner of your own

Names are loaded when they are first used, and importing the package changes nothing in the process.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clsearch.version import __version__

if TYPE_CHECKING:
    from clsearch import metrics, trainables
    from clsearch.common.errors import ConfigError, Refusal
    from clsearch.comparison import Comparison
    from clsearch.config.domains import Choice, IntRange, LogRange, Range
    from clsearch.config.hyperparameters import Hyperparameter, PerMember
    from clsearch.config.sections import Section
    from clsearch.config.space_parts import When
    from clsearch.methods.base import Method, PenaltyOutput
    from clsearch.methods.base import PenaltyOutput as Terms
    from clsearch.methods.registry import register
    from clsearch.methods.settings import Setting
    from clsearch.planning.spaces import SPACES
    from clsearch.planning.study_settings import StudySettings
    from clsearch.study import Study

_HOMES = {
    "Choice": "clsearch.config.domains",
    "Comparison": "clsearch.comparison",
    "ConfigError": "clsearch.common.errors",
    "Hyperparameter": "clsearch.config.hyperparameters",
    "IntRange": "clsearch.config.domains",
    "LogRange": "clsearch.config.domains",
    "Method": "clsearch.methods.base",
    "PenaltyOutput": "clsearch.methods.base",
    "PerMember": "clsearch.config.hyperparameters",
    "Range": "clsearch.config.domains",
    "Refusal": "clsearch.common.errors",
    "SPACES": "clsearch.planning.spaces",
    "Section": "clsearch.config.sections",
    "Setting": "clsearch.methods.settings",
    "Study": "clsearch.study",
    "StudySettings": "clsearch.planning.study_settings",
    "When": "clsearch.config.space_parts",
    "register": "clsearch.methods.registry",
}
"""Public name -> the module that defines it."""

__all__ = [
    "SPACES",
    "Choice",
    "Comparison",
    "ConfigError",
    "Hyperparameter",
    "IntRange",
    "LogRange",
    "Method",
    "PenaltyOutput",
    "PerMember",
    "Range",
    "Refusal",
    "Section",
    "Setting",
    "Study",
    "StudySettings",
    "Terms",
    "When",
    "__version__",
    "metrics",
    "register",
    "trainables",
]


def __getattr__(name: str) -> Any:
    if name in ("metrics", "trainables"):
        return import_module(f"clsearch.{name}")
    if name == "Terms":  # the name of PenaltyOutput before version 0.2
        return import_module(_HOMES["PenaltyOutput"]).PenaltyOutput
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
