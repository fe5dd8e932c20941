"""Search spaces: the default ones, and the rules for the space of a study."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import combinations, islice, product
from typing import Any, TypeVar

from clsearch.common.errors import ConfigError, Refusal, did_you_mean
from clsearch.config.domains import Choice, Domain, Domains, IntRange
from clsearch.config.plain_values import Plain
from clsearch.config.space_parts import Part
from clsearch.config.space_reading import order_parts
from clsearch.config.spaces import SearchSpace, SpaceLike, flatten, resolve_fixed
from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Source
from clsearch.methods.registry import BUILT_IN, configure, method_named
from clsearch.planning.search_fields import NOT_SEARCHED, SearchField, ValueKind, search_fields

T = TypeVar("T")

SPACES: dict[str, Domains] = {name: method.search_space for name, method in BUILT_IN.items()}
"""Algorithm -> its own hyperparameters over their default ranges (those with the default Fisher information)."""

MOST_EXAMPLES = 500
"""Combinations of choices that are checked before a search."""


def read_written_space(algorithm: str, written: SpaceLike) -> tuple[SearchSpace, dict[str, Any]]:
    """Check a space that a user wrote, and split it into what is searched and what has one value.

    Args:
        algorithm: Name of the algorithm.
        written: The space.

    Returns:
        The space, and the settings with one value that no condition limits.

    Raises:
        ConfigError: With one line per problem.
    """
    names, known = dict.fromkeys(name for _, _, name in flatten(written, ())), method_named(algorithm).fields
    problems = [problem for name in names for problem in _name_problems(algorithm, name, known)]
    try:
        space = SearchSpace.of(written)
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems]) from None
    if problems:
        raise ConfigError(problems)
    fields = search_fields(algorithm)
    several = [
        Refusal("space-of-domains", f"{part.name}: must be a Range, an IntRange, a Choice or one value; got {value!r}")
        for part in space.parts
        for value in getattr(part.domain, "values", ())
        if isinstance(value, tuple | dict | set) and fields[part.name].kind is not ValueKind.SEVERAL
    ]
    wrong = [problem for part in space.parts for problem in _kind_problems(fields[part.name], part.domain)]
    if several or wrong:
        raise ConfigError(dict.fromkeys([*several, *wrong]))
    fixed = {
        part.name: part.domain.values[0]
        for part in space.parts
        if not part.conditions and isinstance(part.domain, Choice) and len(part.domain.values) == 1
    }
    return SearchSpace(part for part in space.parts if part.name not in fixed), fixed


def _name_problems(algorithm: str, name: str, known: Iterable[str]) -> list[Refusal]:
    """Refuse a name that the algorithm does not have or that no study searches."""
    fields = search_fields(algorithm)
    if name in NOT_SEARCHED:
        return [Refusal("searchable", f"{name}: not searched, because it is {NOT_SEARCHED[name]}")]
    if name not in known:
        rule = f"not a hyperparameter that {algorithm} can search{did_you_mean(name, fields)}"
        return [Refusal("searchable", f"{name}: {rule}; known are {', '.join(fields)}")]
    return []


def add_defaults(space: SearchSpace, defaults: Domains) -> SearchSpace:
    """Add the default ranges of hyperparameters that a space does not have; the defaults give the order."""
    parts = [
        part
        for name, domain in defaults.items()
        for part in ([p for p in space.parts if p.name == name] or [Part(name, name, domain)])
    ]
    return SearchSpace(order_parts([*parts, *(part for part in space.parts if part not in parts)]))


def resolve_space(space: SearchSpace, config: TrialConfig) -> SearchSpace:
    """Decide the conditions on settings that are not searched, and put the entries in the order of the fields.

    So a study suggests the same values however its space was written. Raises ConfigError for a condition on what is not
    there.
    """
    names = config.acting_fields()
    fixed = {name: getattr(config, name) for name in names if name not in space}
    found = resolve_fixed(space, fixed, names)
    return SearchSpace(order_parts(sorted(found.parts, key=lambda part: names.index(part.name))))


def check_space(algorithm: str, space: SearchSpace, settings: Mapping[str, Any], source: Source | None = None) -> None:
    """Refuse a domain whose values the field cannot have, and values that do not go together.

    Args:
        algorithm: Name of the algorithm.
        space: The space; its names are fields of the algorithm.
        settings: Flat settings that all trials share.
        source: Of the benchmark, if it is known.

    Raises:
        ConfigError: With one line per problem.
    """
    problems = _idle_problems(algorithm, space, settings)
    if not problems:
        problems = _value_problems(algorithm, space, settings, source)
    if problems:
        raise ConfigError(dict.fromkeys(problems))


def _idle_problems(algorithm: str, space: SearchSpace, settings: Mapping[str, Any]) -> list[Refusal]:
    """Refuse a hyperparameter without effect under some choice of the others with which it is searched."""
    problems: dict[Refusal, None] = {}
    for values in islice(example_values(space), MOST_EXAMPLES):
        idle = method_named(algorithm).idle_hyperparameters(dict(settings) | space.settings_of(values))
        for name in (name for name in values if name in idle):
            problems[Refusal("searched-acts", f"{name}: {idle[name]}{_hint(space, name)}")] = None
    return list(problems)


def _hint(space: SearchSpace, name: str) -> str:
    """Suggest a condition if a choice can make a hyperparameter idle; "" if nothing is chosen."""
    chosen = any(part.name != name and not part.domain.numeric for part in space.parts)
    return f". Search {name} in a When(...), where it acts" if chosen else ""


def _kind_problems(field: SearchField, domain: Domain) -> list[Refusal]:
    """Refuse a range of what is not a number, and fractions of what is a whole number."""
    if isinstance(domain, Choice) or (field.kind is ValueKind.NUMBER and domain.numeric):
        return []
    if field.kind is ValueKind.WHOLE:
        if isinstance(domain, IntRange):
            return []
        text = f"{field.name}: must be an IntRange or a Choice, because it is a whole number; got {domain}"
        return [Refusal("whole-range", text)]
    return [Refusal("choice-only", f"{field.name}: must be a Choice, because it is not a number; got {domain}")]


def _value_problems(
    algorithm: str, space: SearchSpace, settings: Mapping[str, Any], source: Source | None
) -> list[Refusal]:
    """Configure examples of the space, and return why some are refused."""
    problems: dict[Refusal, None] = {}
    for values in islice(example_values(space), MOST_EXAMPLES):
        try:
            configure(algorithm, dict(settings) | space.settings_of(values), source)
        except ConfigError as error:
            for problem in error.problems:
                together = problem.rule.endswith(("-only", "-acts", "-needed")) and problem.field in space
                hint = _hint(space, problem.field) if together else ""
                problems[Refusal(problem.rule, f"{problem}{hint}")] = None
    return list(problems)


def example_values(space: SearchSpace) -> Iterator[dict[str, Plain]]:
    """Generate values that show what a space can have: each end and each choice, and pairs of them."""
    yield space.first
    for part in space.parts:
        for end in part.domain.ends:
            yield pick_with(space, {part.key: end})
    for one, other in combinations(space.parts, 2):
        if one.domain.numeric and other.domain.numeric:
            continue
        for first, second in product(one.domain.ends, other.domain.ends):
            yield pick_with(space, {one.key: first, other.key: second})


def first_end(part: Part) -> Plain:
    """Return the low end of a range, or the first choice."""
    return part.domain.ends[0]


def pick_with(
    space: SearchSpace, wanted: Mapping[str, Plain], others: Callable[[Part], Plain] = first_end
) -> dict[str, Plain]:
    """Return values of a trial in which some entries apply and have given values.

    Args:
        space: The space.
        wanted: Key of an entry -> its plain value.
        others: The value of an entry that no condition decides.
    """
    needed: dict[str, tuple[Plain, ...]] = {}
    for part in reversed(space.parts):  # an entry follows those that its conditions name
        if part.key in wanted or (part.name in needed and _contains_any(part.domain, needed[part.name])):
            needed |= dict(part.conditions)

    def choose(part: Part) -> Plain:
        if part.key in wanted:
            return wanted[part.key]
        allowed = [value for value in needed.get(part.name, ()) if part.domain.contains(value)]
        return allowed[0] if allowed else others(part)

    return space.pick(choose)


def typical_values(space: SearchSpace, numbers: Collection[str], most: int) -> list[dict[str, Plain]]:
    """Return values that stand for a space in estimates of its cost.

    Args:
        space: The space.
        numbers: Hyperparameters that do not change the cost; they are at the low end, or the first choice.
        most: Greatest number of them.

    Returns:
        Combinations of choices, with the middle of each range; evenly spread if there are more than `most`.
    """
    found: list[dict[str, Plain]] = [{}]
    for part in space.parts:
        points = list(part.domain.ends)
        if part.name in numbers:
            points = points[:1]
        elif part.domain.numeric:
            three = part.domain.points(3)
            points = [three[len(three) // 2]]
        found = [
            own | ({part.name: point} if part.applies(own) else {})
            for own in found
            for point in (points if part.applies(own) else points[:1])
        ]
        found = spread(found, MOST_EXAMPLES)
    return spread(found, most)


def spread(values: list[T], most: int) -> list[T]:
    """Return at most so many of some values, evenly spread."""
    count = min(most, len(values))
    return [values[i * len(values) // count] for i in range(count)]


def _contains_any(domain: Domain, values: Iterable[Plain]) -> bool:
    return any(domain.contains(value) for value in values)
