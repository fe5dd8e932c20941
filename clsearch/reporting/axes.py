"""Axes of pictures for hyperparameters: where a value lies, what the ticks are, which trials have one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from clsearch.common.formatting import count_of, humanize
from clsearch.config.domains import Choice, IntRange
from clsearch.config.plain_values import Plain, is_number, show_value
from clsearch.config.space_parts import Part, show_wanted
from clsearch.config.spaces import SearchSpace
from clsearch.records.trials import TrialRecord

COLUMNS = 4
"""Panels in a row at most."""

MOST_TICKS = 6
"""Ticks of whole numbers on a logarithmic axis."""

NOTE_WIDTH = 38
"""Characters of a line below a panel."""

LONGEST_NAME = 24
"""Characters of a choice at an axis; a longer one is cut in its middle."""

BESIDE, WIDEST = 0.08, 0.6
"""Distance of trials with the same choice, and the width of all of them at most; choices lie 1 apart."""


@dataclass(frozen=True)
class Axis:
    """The axis of a hyperparameter.

    Attributes:
        name: The hyperparameter.
        note: Which trials have it; "" if all have it.
        log: True for a logarithmic scale.
        choices: The choices, at 0, 1, 2, ... in this order; empty for numbers.
        ticks: Position and text of each tick; empty if the picture places them.
    """

    name: str
    note: str
    log: bool
    choices: tuple[Plain, ...]
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: Plain) -> float:
        """Return where a value lies."""
        if self.choices:
            return float(self.choices.index(value))
        assert isinstance(value, int | float)
        return float(value)

    def place_trials(self, records: Sequence[TrialRecord]) -> dict[str, float]:
        """Return where the trials that have a value lie, by label.

        Trials with the same choice lie beside each other, in the given order.
        """
        places = {r.label: self.place(r.values[self.name]) for r in records if self.name in r.values}
        if not self.choices:
            return places
        same = defaultdict[float, list[str]](list)
        for label, place in places.items():
            same[place].append(label)
        for place, labels in same.items():
            step = min(BESIDE, WIDEST / max(1, len(labels) - 1))
            for n, label in enumerate(labels):
                places[label] = place + (n - (len(labels) - 1) / 2) * step
        return places


def find_axis(space: SearchSpace, name: str, records: Sequence[TrialRecord] = ()) -> Axis:
    """Find the axis of a hyperparameter.

    Args:
        space: The search space.
        name: The hyperparameter.
        records: The trials of the picture.
    """
    parts = [part for part in space.parts if part.name == name]
    log, note = all(part.domain.log for part in parts), describe_coverage(parts, records)
    if has_numbers(parts):
        return Axis(name, note, log, (), find_whole_ticks(parts))
    found = [end for part in parts for end in part.domain.ends] + [r.values[name] for r in records if name in r.values]
    choices = tuple(dict.fromkeys(found))
    return Axis(name, note, False, choices, tuple((float(n), shorten(show_value(v))) for n, v in enumerate(choices)))


def has_numbers(parts: Sequence[Part]) -> bool:
    """Return True if the entries of a hyperparameter have ranges, and no choices but numbers."""
    plain = [value for part in parts if isinstance(part.domain, Choice) for value in part.domain.ends]
    return all(map(is_number, plain)) and any(part.domain.numeric for part in parts)


def is_map(space: SearchSpace) -> bool:
    """Return True if trials lie in a plane: two hyperparameters with numbers that all trials have."""
    return len(space) == 2 and not space.conditional and all(has_numbers([part]) for part in space.parts)


def arrange_panels(count: int) -> tuple[int, int]:
    """Return rows and columns of a number of panels, with rows of about the same length."""
    rows = math.ceil(count / COLUMNS)
    return rows, math.ceil(count / rows)


def find_whole_ticks(parts: Sequence[Part]) -> tuple[tuple[float, str], ...]:
    """Return the ticks of whole numbers; none for other numbers."""
    domains = [part.domain for part in parts]
    if not all(isinstance(domain, IntRange) for domain in domains):
        return ()
    ends = [end for domain in domains for end in domain.ends if isinstance(end, int)]
    low, high = min(ends), max(ends)
    if all(domain.log for domain in domains):
        powers = [find_powers(low, high, base) for base in (2, 10, 100, 1000)]
        chosen = next((found for found in powers if len(found) <= MOST_TICKS), [])
        return tuple((float(n), str(n)) for n in (chosen if len(chosen) > 1 else dict.fromkeys((low, high))))
    return tuple((tick, f"{tick:.0f}") for tick in round_ticks(low, high, whole=True))


def find_powers(low: float, high: float, base: int) -> list[int]:
    """Return the powers of a base from low to high, at least 1; low is at least 1."""
    return [base**n for n in range(math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9) + 1)]


def round_ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Return about five round numbers from low to high, both included; whole numbers if asked for."""
    if low == high:
        return [float(low)]
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((power * n for n in (1, 2, 5, 10)), key=lambda step: abs(step - rough))
    step = max(1.0, step) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def describe_coverage(parts: Sequence[Part], records: Sequence[TrialRecord]) -> str:
    """Say which trials have a hyperparameter: `4 of 6 trials: optimizer = sgd`; "" if all have it."""
    having = sum(parts[0].name in record.values for record in records)
    if having == len(records):
        return ""
    conditions = " or ".join(dict.fromkeys(show_wanted(part) for part in parts if part.conditions))
    return f"{having} of {count_of(len(records), 'trial')}: {conditions}"


def shorten(text: str) -> str:
    """Cut a long text in its middle."""
    half = (LONGEST_NAME - 1) // 2
    return text if len(text) <= LONGEST_NAME else f"{text[:half]}…{text[-half:]}"


def name_part(part: Part) -> str:
    """Name an entry of a space: `momentum, if optimizer = sgd`."""
    wanted = show_wanted(part)
    return humanize(part.name) + (f", if {wanted}" if wanted else "")
