"""Group configurations by structure: those that differ in numbers only train together, others apart."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clsearch.config.plain_values import Values
from clsearch.config.trial import TrialConfig
from clsearch.methods.registry import CUSTOM_METHODS


@dataclass(frozen=True)
class Suggestion:
    """What was suggested for a trial.

    Attributes:
        values: Its searched values, plain.
        config: Its whole configuration, validated.
    """

    values: Values
    config: TrialConfig


def group_by_structure(suggested: Mapping[str, Suggestion]) -> list[dict[str, Suggestion]]:
    """Group the trials that can train together, label -> suggestion, in the order in which they are given."""
    if len(suggested) == 1:  # a user's regularizers need not be built
        return [dict(suggested)]
    groups: dict[tuple[object, ...], dict[str, Suggestion]] = {}
    for label, one in suggested.items():
        groups.setdefault(structure_key(label, one.config), {})[label] = one
    return [*groups.values()]


def structure_key(label: str, config: TrialConfig) -> tuple[object, ...]:
    """Return what is equal for configurations that can train together.

    A cohort builds its regularizers once. So those of a user count by their content: what they are built with must be
    the same for all, and only what they read from their hyperparameters can differ. Those that cannot be pickled train
    alone.
    """
    key: tuple[object, ...] = (json.dumps(config.structure(), sort_keys=True, default=str),)
    if config.algorithm in CUSTOM_METHODS:
        try:
            key += tuple(pickle_by_content(build(config)) for build in CUSTOM_METHODS[config.algorithm].builders)
        except Exception:  # what cannot be built fails in its worker, with its error
            key += (label,)
    return key


def pickle_by_content(value: object) -> bytes:
    """Pickle a value so that equal ones give equal bytes: a tensor's own pickle has the address of its memory."""
    import torch
    from ray.cloudpickle import CloudPickler

    class ContentPickler(CloudPickler):
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, torch.Tensor):
                content = obj.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
                return tuple, ((str(obj.dtype), *obj.shape, content),)
            return super().reducer_override(obj)

    buffer = io.BytesIO()
    ContentPickler(buffer).dump(value)
    return buffer.getvalue()
