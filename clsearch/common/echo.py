"""Show values shortly: in refusals, and as the repr of what holds many values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from reprlib import Repr
from typing import Any

from clsearch.common.redaction import printable, redact, redact_value

MOST = 80
"""Characters of a value in a refusal."""

MOST_OF_REPR = 400
"""Characters of the repr of an object."""


class _Repr(Repr):
    """A repr of limited length, whose texts have no secrets."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redact_value(x), level)


_REPR = _Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 4 * MOST
_REPR.maxtuple = _REPR.maxlist = _REPR.maxdict = 12


def echo(value: object, most: int = MOST) -> str:
    """Return the repr of a value, with at most about `most` characters on one line, without secrets.

    >>> echo([0] * 1000)
    '[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...]'
    """
    if isinstance(value, Path):
        value = str(value)
    try:
        text = _REPR.repr(value)
    except Exception:  # a repr of somebody else; or an integer of too many digits for Python
        text = f"<{type(value).__name__}>"
    return shorten(printable(redact(" ".join(text.split()))), most)


def shorten(text: str, most: int) -> str:
    """Leave out the middle of a text that has more than `most` characters."""
    if len(text) <= most:
        return text
    tail = most // 4
    return f"{text[: most - tail]} ... {text[-tail:]}"


class ShortRepr:
    """Base of dataclasses that hold many values, with a repr of a few lines at most; declare them with repr=False."""

    def __repr__(self) -> str:
        own: Any = self
        shown = (f"{field.name}={echo(getattr(self, field.name))}" for field in dataclasses.fields(own) if field.repr)
        return f"{type(self).__name__}({shorten(', '.join(shown), MOST_OF_REPR)})"
