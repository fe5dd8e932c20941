"""Algorithms of the user's own, by name. Importing this module is cheap, so that a script's help is."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clsearch.common.errors import ConfigError
from clsearch.config.trial import COMMON, NUMBERS, PARTS, TrialConfig, part_of

if TYPE_CHECKING:
    from clsearch.methods.base import Regularizer


@dataclass(frozen=True)
class Own:
    """An algorithm that was registered. build: what makes each of its regularizers. settings: hyperparameters that act
    in it, beside what all algorithms have.
    """

    build: tuple[Callable[[TrialConfig], Regularizer], ...]
    settings: tuple[str, ...]


OWN: dict[str, Own] = {}
"""What this process knows."""


def register(name: str, *build: Callable[[TrialConfig], Regularizer], settings: Sequence[str] = ()) -> None:
    """Make an algorithm of your own known in this process, and in the workers of the studies that it starts.

    build: for each of its regularizers, what makes it from a configuration. settings: those of distillation_factor,
    distillation_temperature, penalty_factor and penalty_p_norm that they use; regularizers find them as [M] among
    their hyperparameters. Registering a name again replaces what it stood for.
    Raises ConfigError for a name that is taken, or another setting.
    """
    known = [number for number in NUMBERS if number != "learning_rate"]
    if not name.isidentifier() or (name in PARTS and name not in OWN):
        raise ConfigError([f"name: must be a new one, of letters, digits and underscores; got {name}"])
    if unknown := [setting for setting in settings if setting not in known]:
        raise ConfigError([f"settings: must be of {', '.join(known)}; got {', '.join(unknown)}"])
    accept({name: Own(build, tuple(settings))})


def accept(own: Mapping[str, Own]) -> None:
    """Take algorithms as another process registered them; their regularizers travelled by value."""
    for name, algorithm in own.items():
        OWN[name] = algorithm
        PARTS[name] = (*COMMON, part_of(algorithm.settings))


def digest_of(config: TrialConfig) -> str | None:
    """Names the source of a registered algorithm's regularizers, so that a study notices that they were changed; None
    for an algorithm of clsearch's, and where the source cannot be read.
    """
    if config.algorithm not in OWN:
        return None
    try:
        texts = [inspect.getsource(type(build(config))) for build in OWN[config.algorithm].build]
    except (OSError, TypeError):
        return None
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]
