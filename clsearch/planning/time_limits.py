"""Times that a user writes: hours, or numbers with units."""

from __future__ import annotations

import math
import re

from clsearch.common.errors import RuleError

UNITS = {"h": 1.0, "min": 1 / 60, "s": 1 / 3600}
"""Unit -> hours."""


def read_hours(value: float | str) -> float:
    """Read a time in hours: a number, or a text of numbers with the units h, min and s.

    Raises:
        RuleError: For another text, or a time that is not above 0.

    Example:
        >>> read_hours("90min"), read_hours("1h30min"), read_hours(2), read_hours("2")
        (1.5, 1.5, 2.0, 2.0)
    """
    if isinstance(value, str):
        parts = re.findall(r"([0-9.]+)(h|min|s)", value.replace(" ", ""))
        try:
            whole = "".join(number + unit for number, unit in parts) == value.replace(" ", "")
            hours = sum(float(number) * UNITS[unit] for number, unit in parts) if parts and whole else float(value)
        except ValueError:
            rule = "must be hours, as 2 or 1.5, or a time, as 90min or 1h30min"
            raise RuleError("hours-form", rule) from None
    else:
        hours = float(value)
    if not (hours > 0 and math.isfinite(hours)):
        raise RuleError("hours-positive", "must be above 0")
    return hours
