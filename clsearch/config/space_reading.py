"""Check the entries of a search space that a user wrote: domains, conditions, order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from clsearch.common.errors import ConfigError, Refusal
from clsearch.config.domains import Choice, Domain, IntRange, Range
from clsearch.config.plain_values import Plain, show_value, to_plain
from clsearch.config.space_parts import Entry, Part


def to_domain(value: Any) -> Domain:
    """Return the domain of what a user wrote: a domain, an Optuna distribution, or one value."""
    if isinstance(value, Range | IntRange | Choice):
        return value
    kind = type(value).__name__
    if hasattr(value, "choices") and kind.endswith("Distribution"):
        return Choice(*value.choices)
    if hasattr(value, "low") and kind.endswith("Distribution"):
        if kind.startswith("Int"):
            return IntRange(value.low, value.high, bool(getattr(value, "log", False)), getattr(value, "step", 1) or 1)
        return Range(value.low, value.high, bool(getattr(value, "log", False)), getattr(value, "step", None))
    return Choice(value)


def domain_problems(name: str, domain: Domain) -> list[Refusal]:
    """Check a domain by itself."""
    return [Refusal(rule, f"{name}: {words}") for rule, words in domain.problems()]


def name_parts(entries: Sequence[Entry]) -> list[Part]:
    """Make the entries of a space; resolve the values of conditions, and number names that occur more than once.

    Raises:
        ConfigError: For a value of a condition that its hyperparameter cannot have, or a condition on a range.
    """
    domains: dict[str, Domain] = {}
    for _, domain, name in entries:
        domains[name] = join_domains(domains[name], domain) if name in domains else domain
    parts, problems, count = [], [], dict[str, int]()
    for conditions, domain, name in entries:
        resolved = []
        for asked, value in conditions:
            wanted, problem = resolve_condition(asked, value, domains.get(asked))
            problems += [problem] if problem else []
            resolved.append((asked, wanted))
        count[name] = count.get(name, 0) + 1
        key = name if count[name] == 1 else f"{name}/{count[name]}"
        parts.append(Part(key, name, domain, tuple(resolved)))
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return parts


def resolve_condition(name: str, value: Any, domain: Domain | None) -> tuple[tuple[Plain, ...], Refusal | None]:
    """Return the plain values that a condition wants, and why it is refused, if it is."""
    several = isinstance(value, list | tuple | set | frozenset)
    if domain is None:  # of a setting, which the plan resolves
        return tuple(map(to_plain, value if isinstance(value, list | set | frozenset) else [value])), None
    if isinstance(domain, Range) and domain.step is None:
        text = f"{name}: a condition needs a Choice, an IntRange or a fixed setting; got {domain}"
        return (), Refusal("condition-on-values", text)
    wanted = [value] if not several or domain.contains(domain.plain(value)) else list(value)
    plain = tuple(domain.plain(one) for one in wanted)
    wrong = [one for one in plain if not domain.contains(one)]
    if not plain or wrong:
        got = show_value(wrong[0]) if wrong else "none"
        text = f"{name}: a condition must name values that are searched, {domain}; got {got}"
        return plain, Refusal("condition-searched", text)
    return plain, None


def order_parts(parts: Sequence[Part]) -> list[Part]:
    """Order entries so that each follows those that its conditions name.

    Raises:
        ConfigError: For conditions that form a cycle, or a hyperparameter with two entries at the same time.
    """
    problems = []
    for place, part in enumerate(parts):
        for other in parts[:place]:
            if other.name == part.name and not exclude_each_other(part, other):
                text = f"{part.name}: must have one domain at a time; got {other.domain} and {part.domain}"
                problems.append(Refusal("one-domain", text))
    if problems:
        raise ConfigError(problems)
    names = {part.name for part in parts}
    ordered: list[Part] = []
    waiting = list(parts)
    while waiting:
        blocked = {part.name for part in waiting}
        ready = [p for p in waiting if not any(name in blocked for name, _ in p.conditions if name in names)]
        if not ready:
            shown = ", ".join(sorted(blocked))
            text = f"{waiting[0].name}: conditions must not form a cycle; got one among {shown}"
            raise ConfigError([Refusal("condition-cycle", text)])
        # One at a time, so that entries keep the order in which they were written.
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered


def exclude_each_other(one: Part, other: Part) -> bool:
    """Return True if two entries never apply together: a hyperparameter would need two values."""
    return any(
        name == name_2 and not {*map(repr, values)} & {*map(repr, values_2)}
        for (name, values), (name_2, values_2) in product(one.conditions, other.conditions)
    )


def count_values(domain: Domain) -> float:
    """Count the values of a domain; infinity for a range without a step.

    Example:
        >>> count_values(Choice("sgd", "adam")), count_values(IntRange(5, 20, step=5)), count_values(Range(0.0, 1.0))
        (2, 4, inf)
    """
    if isinstance(domain, IntRange):
        return (domain.high - domain.low) // domain.step + 1
    if isinstance(domain, Range):
        return math.inf if domain.step is None else math.floor((domain.high - domain.low) / domain.step + 1e-8) + 1
    return len(domain.ends)


def join_domains(one: Domain, other: Domain) -> Domain:
    """Return one domain with the values of both."""
    if isinstance(one, Choice) or isinstance(other, Choice):
        values = [*getattr(one, "values", one.ends), *getattr(other, "values", other.ends)]
        return Choice(*(v for place, v in enumerate(values) if to_plain(v) not in map(to_plain, values[:place])))
    assert isinstance(one, Range | IntRange)
    assert isinstance(other, Range | IntRange)
    low, high, log = min(one.low, other.low), max(one.high, other.high), one.log and other.log
    if isinstance(one, IntRange) and isinstance(other, IntRange):
        return IntRange(int(low), int(high), log)
    return Range(low, high, log)


def count_points(domain: Domain, n: int) -> int:
    """Count the points of a domain in a grid; of a range without a step without listing them."""
    return n if isinstance(domain, Range) and domain.step is None else len(domain.points(n))


def mean_of(domain: Domain) -> float:
    """Return the mean of a domain of numbers, drawn evenly on its scale; of other choices none counts.

    Example:
        >>> mean_of(IntRange(5, 20)), round(mean_of(LogRange(1.0, 100.0)), 1), mean_of(Choice(16, 32, None))
        (12.5, 21.5, 24.0)
    """
    numbers = [float(n) for n in domain.ends if isinstance(n, int | float) and not isinstance(n, bool)]
    if domain.log and domain.numeric:
        low, high = numbers
        return (high - low) / math.log(high / low)
    return sum(numbers) / len(numbers) if numbers else 0.0


def domain_from_json(entry: Mapping[str, Any]) -> Domain:
    """Read a domain in the form of study.json. Raises KeyError, TypeError or ValueError for another."""
    if "choices" in entry:
        return Choice(*entry["choices"])
    if entry.get("whole"):
        return IntRange(int(entry["low"]), int(entry["high"]), bool(entry["log"]), int(entry["step"]))
    return Range(entry["low"], entry["high"], bool(entry["log"]), entry.get("step"))
