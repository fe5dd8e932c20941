"""Search spaces: the domains of hyperparameters, and the conditions under which each applies to a trial.

A space is written as a dict, or as a list of dicts and `When`; `SearchSpace` is its checked form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from clsearch.common.echo import echo
from clsearch.common.errors import ConfigError, Refusal, did_you_mean
from clsearch.config.domains import Domain
from clsearch.config.plain_values import Plain, Values, to_plain
from clsearch.config.space_parts import Conditions, Entry, Part, When
from clsearch.config.space_reading import (
    count_points,
    domain_from_json,
    domain_problems,
    join_domains,
    name_parts,
    order_parts,
    to_domain,
)

SpaceLike: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any] | When]
"""What a user writes: hyperparameter -> domain, Optuna distribution or value; or a list of such dicts and `When`."""


class SearchSpace(Mapping[str, Domain]):
    """A search space in its checked form: hyperparameter -> domain, and the conditions under which each applies.

    As a mapping it has one domain per hyperparameter: of one with several entries, all their values together.

    Args:
        parts: The entries; each after those that its conditions name.
    """

    def __init__(self, parts: Iterable[Part] = ()) -> None:
        self.parts = tuple(parts)
        self.domains: dict[str, Domain] = {}
        for part in self.parts:
            known = self.domains.get(part.name)
            self.domains[part.name] = part.domain if known is None else join_domains(known, part.domain)

    @classmethod
    def of(cls, written: SpaceLike | None) -> SearchSpace:
        """Check a space that a user wrote.

        Raises:
            ConfigError: For what is no domain, a domain that breaks a rule, a condition on what is not there, a cycle
                of conditions, or a hyperparameter with two domains at the same time.
        """
        if isinstance(written, SearchSpace):
            return written
        entries = list(flatten(written or {}, ()))
        problems = [p for _, domain, name in entries for p in domain_problems(name, domain)]
        if problems:
            raise ConfigError(problems)
        return cls(order_parts(name_parts(entries)))

    def __getitem__(self, name: str) -> Domain:
        return self.domains[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.domains)

    def __len__(self) -> int:
        return len(self.domains)

    def __eq__(self, other: object) -> bool:
        """Compare with a space, or with a dict of a space without conditions."""
        if isinstance(other, SearchSpace):
            return self.parts == other.parts
        return not self.conditional and self.domains == other

    def __hash__(self) -> int:
        return hash(self.parts)

    def __repr__(self) -> str:
        return f"SearchSpace({', '.join(f'{part.key}: {part.domain}' for part in self.parts)})"

    def only(self, keep: Callable[[str], bool]) -> SearchSpace:
        """Return the space of the hyperparameters to keep; a part that depends on another one goes with it."""
        parts = [part for part in self.parts if keep(part.name)]
        return SearchSpace(p for p in parts if all(keep(name) or name not in self for name, _ in p.conditions))

    @property
    def always(self) -> frozenset[str]:
        """The hyperparameters that apply to every trial."""
        return frozenset(part.name for part in self.parts if not part.conditions)

    @property
    def conditional(self) -> bool:
        """True if some entry has a condition."""
        return any(part.conditions for part in self.parts)

    def active_parts(self, values: Values) -> list[Part]:
        """Return the entries that apply to the values of a trial."""
        return [part for part in self.parts if part.applies(values)]

    def active(self, values: Values) -> list[str]:
        """Return the hyperparameters that apply to the values of a trial."""
        return [part.name for part in self.active_parts(values)]

    def has(self, values: Values) -> bool:
        """Return True if a trial can have exactly these values."""
        parts = {part.name: part.domain for part in self.active_parts(values)}
        return {*values} == {*parts} and all(domain.contains(values[name]) for name, domain in parts.items())

    def settings_of(self, values: Values) -> dict[str, Any]:
        """Return the settings of plain values; a name that is not searched keeps its value.

        Of a hyperparameter with several entries it is the one that applies, or, if only a part of a trial's values is
        given, one that has the value.
        """
        parts = {part.name: part.domain for part in self.parts if part.domain.contains(values.get(part.name))}
        parts |= {part.name: part.domain for part in self.active_parts(values)}
        return {name: parts[name].setting(v) if name in parts else v for name, v in values.items()}

    def pick(self, choose: Callable[[Part], Plain]) -> dict[str, Plain]:
        """Return the values that `choose(part)` gives to each entry that applies."""
        values: dict[str, Plain] = {}
        for part in self.parts:
            if part.applies(values):
                values[part.name] = choose(part)
        return values

    @property
    def first(self) -> dict[str, Plain]:
        """The low end of each range and the first choice."""
        return self.pick(lambda part: part.domain.ends[0])

    def grid(self, n: int) -> Iterator[dict[str, Plain]]:
        """Generate all combinations of at most n points per range and of every choice."""

        def extend(values: dict[str, Plain], rest: tuple[Part, ...]) -> Iterator[dict[str, Plain]]:
            if not rest:
                yield values
                return
            part, *others = rest
            points = part.domain.points(n) if part.applies(values) else [None]
            for point in points:
                yield from extend(values | {part.name: point} if part.applies(values) else values, tuple(others))

        return extend({}, self.parts)

    def count_grid(self, n: int) -> int:
        """Count the points of a grid without listing them."""
        named = {name for part in self.parts for name, _ in part.conditions}
        switches = SearchSpace(part for part in self.parts if part.name in named)
        free = [part for part in self.parts if part.name not in named]
        sizes = {part.key: count_points(part.domain, n) for part in free}
        if not named:
            return math.prod(sizes.values())
        return sum(math.prod(sizes[part.key] for part in free if part.applies(values)) for values in switches.grid(n))

    def as_json(self) -> dict[str, Any]:
        """Return its form in study.json: key -> domain, with `name` if it is another, and `when` for conditions."""
        return {
            part.key: part.domain.as_json()
            | ({} if part.name == part.key else {"name": part.name})
            | ({"when": {name: list(values) for name, values in part.conditions}} if part.conditions else {})
            for part in self.parts
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Mapping[str, Any]]) -> SearchSpace:
        """Read the form of study.json. Raises KeyError, TypeError or ValueError for another."""
        return cls(
            Part(
                key,
                str(entry.get("name", key)),
                domain_from_json(entry),
                tuple((name, tuple(values)) for name, values in entry.get("when", {}).items()),
            )
            for key, entry in content.items()
        )


def flatten(written: Any, conditions: Conditions) -> Iterator[Entry]:
    """Yield conditions, domain and name of each entry of a space that a user wrote."""
    if isinstance(written, SearchSpace):
        for part in written.parts:
            inner = ((name, list(values)) for name, values in part.conditions)
            yield (*conditions, *inner), part.domain, part.name
    elif isinstance(written, Mapping):
        for name, value in written.items():
            if isinstance(value, When):
                text = f"{name}: a When stands beside the dicts of a list, not under a name; got {echo(value)}"
                raise ConfigError([Refusal("when-in-list", text)])
            yield conditions, to_domain(value), str(name)
    elif isinstance(written, When):
        yield from flatten(written.space, (*conditions, (str(written.name), written.value)))
    elif isinstance(written, list | tuple):
        for each in written:
            yield from flatten(each, conditions)
    else:
        text = "space: must map hyperparameters to a Range, IntRange or Choice, or list such dicts and When"
        raise ConfigError([Refusal("space-of-domains", f"{text}; got {echo(written)}")])


def resolve_fixed(space: SearchSpace, fixed: Mapping[str, Any], known: Iterable[str]) -> SearchSpace:
    """Decide the conditions on settings that are not searched, so that only searched ones remain.

    Args:
        space: The space.
        fixed: Name -> value of every setting that is not searched.
        known: Names of all settings, to suggest one.

    Raises:
        ConfigError: For a condition on what is not there.
    """
    known, parts, problems = list(known), [], []
    for part in space.parts:
        open_conditions, holds = [], True
        for name, values in part.conditions:
            if name in space:
                open_conditions.append((name, values))
            elif name in fixed:
                holds = holds and to_plain(fixed[name]) in values
            else:
                text = f"{name}: a condition must name a hyperparameter or a setting{did_you_mean(name, known)}"
                problems.append(Refusal("condition-known", f"{text}; got one for {part.name}"))
        if holds:
            parts.append(replace(part, conditions=tuple(open_conditions)))
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    names = {part.name for part in parts}
    gone = [p for p in parts if any(name not in names for name, _ in p.conditions)]
    while gone:  # what they asked of went
        parts = [part for part in parts if part not in gone]
        names = {part.name for part in parts}
        gone = [p for p in parts if any(name not in names for name, _ in p.conditions)]
    return SearchSpace(parts)
