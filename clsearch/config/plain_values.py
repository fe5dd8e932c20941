"""Plain values: how searched values stand in records, tables and Optuna, and how people read them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeAlias, TypeGuard

Plain: TypeAlias = float | int | str | bool | None
"""A searched value in records, tables and Optuna."""


Values: TypeAlias = Mapping[str, Plain]
"""Hyperparameter -> plain value, of one trial."""


def to_plain(value: Any) -> Plain:
    """Return the plain form of a setting's value: widths as `100,100`, a function by its address."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return backbone_name(value) if callable(value) else str(value)


def show_value(value: Plain, digits: int = 6) -> str:
    """Write a plain value for people, a fraction with so many digits."""
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def backbone_name(backbone: Any) -> str:
    """Write a backbone: its name, or the address of its function with the arguments of a partial."""
    if isinstance(backbone, str):
        return backbone
    if isinstance(backbone, partial):
        words = [*map(_word, backbone.args), *(f"{name}={_word(value)}" for name, value in backbone.keywords.items())]
        return f"{backbone_name(backbone.func)}({', '.join(words)})"
    made = backbone if hasattr(backbone, "__qualname__") else type(backbone)
    return f"{made.__module__}.{made.__qualname__}"


def _word(argument: Any) -> str:
    """Write an argument; the repr of a function has a memory address, which differs between processes."""
    return backbone_name(argument) if callable(argument) else repr(argument)


def is_number(value: Plain) -> TypeGuard[float]:
    """Return True for a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
