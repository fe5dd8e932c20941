"""Parts of a search space: what a user writes under a condition, and an entry in its checked form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from clsearch.config.domains import Domain
from clsearch.config.plain_values import Plain, Values, show_value


@dataclass(frozen=True)
class When:
    """A part of a search space that applies only if a hyperparameter has a value.

    Args:
        name: The hyperparameter of the condition, searched or fixed.
        value: Its value, or a list of values.
        space: The part: hyperparameter -> domain or value; or a list of such dicts and `When`.

    Example:
        >>> from clsearch import Choice, Range
        >>> from clsearch.config.spaces import SearchSpace
        >>> space = SearchSpace.of([{"optimizer": Choice("sgd", "adam")},
        ...                         When("optimizer", "sgd", {"momentum": Range(0.0, 0.99)})])
        >>> space.active({"optimizer": "adam"})
        ['optimizer']
    """

    name: str
    value: Any
    space: Any


@dataclass(frozen=True)
class Part:
    """One entry of a search space.

    Attributes:
        key: Its name in Optuna: the hyperparameter's, with a number if several entries have it.
        name: The hyperparameter.
        domain: Its values.
        conditions: Hyperparameter -> the plain values of which it must have one.
    """

    key: str
    name: str
    domain: Domain
    conditions: tuple[tuple[str, tuple[Plain, ...]], ...] = ()

    def applies(self, values: Values) -> bool:
        """Return True if the values of the other hyperparameters meet its conditions."""
        return all(name in values and values[name] in wanted for name, wanted in self.conditions)


Conditions: TypeAlias = "tuple[tuple[str, Any], ...]"


Entry: TypeAlias = "tuple[Conditions, Domain, str]"


def show_conditions(part: Part) -> str:
    """Write the conditions of an entry after its domain; "" if it has none."""
    return f", if {show_wanted(part)}" if part.conditions else ""


def show_wanted(part: Part) -> str:
    """Write the conditions of an entry: `optimizer = sgd and epochs = 1 or 2`; "" if it has none."""
    return " and ".join(f"{name} = {' or '.join(map(show_value, values))}" for name, values in part.conditions)
