"""Samplers and pruners: what each of Optuna's can serve, and how one that a script made itself is named."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from clsearch.common.errors import Refusal
from clsearch.config.plain_values import backbone_name
from clsearch.config.spaces import SearchSpace

NSGA_TRIALS = 8
"""Minimum number of trials with nsga2 and nsga3: fewer make no second generation."""


@dataclass(frozen=True)
class SamplerKind:
    """What one of Optuna's samplers can serve.

    Attributes:
        optuna_class: Name of its class.
        learns: It uses the results of earlier trials.
        choices: It learns about choices; others would be drawn at random.
        conditional: The same of conditional parts.
        fewest, most: Number of objectives; `most` None for any.
        constraints: It learns from constraints.
        package: A package that it needs beside Optuna.
    """

    optuna_class: str
    learns: bool = True
    choices: bool = True
    conditional: bool = True
    fewest: int = 1
    most: int | None = None
    constraints: bool = True
    package: str = ""


SAMPLERS = {
    "tpe": SamplerKind("TPESampler"),
    "random": SamplerKind("RandomSampler", learns=False),
    "grid": SamplerKind("GridSampler", learns=False),
    "qmc": SamplerKind("QMCSampler", learns=False),
    "nsga2": SamplerKind("NSGAIISampler", conditional=False, fewest=2),
    "nsga3": SamplerKind("NSGAIIISampler", conditional=False, fewest=2),
    "gp": SamplerKind("GPSampler", conditional=False),
    "cmaes": SamplerKind("CmaEsSampler", choices=False, conditional=False, most=1, constraints=False, package="cmaes"),
}
"""Name of the option -> what the sampler can serve."""

GENETIC = ("nsga2", "nsga3")

NOT_AS_OBJECTS = ("GridSampler", "BruteForceSampler")
"""Samplers that end a study of Optuna themselves, which only its own loop can do."""

GP_SINCE = {"constraints": (4, 2), "objectives": (4, 5)}
"""Versions of Optuna in which GPSampler learned to serve constraints, and several objectives with them."""


def optuna_version() -> tuple[int, int]:
    """Return the first two numbers of the installed Optuna's version, without importing it."""
    major, minor, *_ = version("optuna").split(".")
    return int(major), int(minor)


def is_optuna(value: Any, base: str) -> bool:
    """Return True for an object of one of Optuna's base classes: BaseSampler or BasePruner."""
    return any(one.__name__ == base and one.__module__.startswith("optuna.") for one in type(value).__mro__)


def kind_of(sampler: Any) -> SamplerKind | None:
    """Return what a sampler can serve: of a name, or of an object of one of Optuna's classes; None if unknown."""
    if isinstance(sampler, str):
        return SAMPLERS[sampler]
    classes = [one.__name__ for one in type(sampler).__mro__]
    return next((kind for kind in SAMPLERS.values() if kind.optuna_class in classes), None)


def describe_choice(value: Any) -> str:
    """Write a sampler or pruner: its name, or the class of an object with the arguments that differ from defaults.

    The text is the same in each process: no memory addresses, and no seed, which Optuna's objects keep as a state.

    Example:
        >>> from optuna.pruners import PercentilePruner
        >>> describe_choice(PercentilePruner(25.0)), describe_choice("tpe")
        ('PercentilePruner(percentile=25.0)', 'tpe')
    """
    if isinstance(value, str | int | float):
        return str(value)
    return f"{type(value).__name__}({', '.join(_arguments(value))})"


def _arguments(value: Any) -> Iterator[str]:
    """Generate the arguments of an object that differ from their defaults and that it keeps in attributes."""
    held = vars(value)
    for name, parameter in inspect.signature(type(value).__init__).parameters.items():
        found = held.get(f"_{name}", held.get(name, parameter.default))
        hidden = name in ("self", "seed") or name.startswith("warn_") or found is inspect.Parameter.empty
        plain = isinstance(found, bool | int | float | str)
        if hidden or found is parameter.default or (plain and found == parameter.default):
            continue
        shown = _write(found)
        if shown and (name, shown) != ("independent_sampler", "RandomSampler()"):  # which samplers make themselves
            yield f"{name}={shown}"


def _write(value: Any) -> str:
    """Write an argument: a plain value, a list or dict of them, a function, another sampler or pruner; "" for others,
    which Optuna makes itself.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_write, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_write(one)}' for name, one in value.items())}}}"
    if is_optuna(value, "BaseSampler") or is_optuna(value, "BasePruner"):
        return describe_choice(value)
    own = callable(value) and not type(value).__module__.startswith("optuna.")
    return backbone_name(value) if own else ""


def check_sampler(sampler: Any, space: SearchSpace, objectives: Sequence[str], constrained: bool) -> list[Refusal]:
    """Refuse a sampler that cannot serve a search.

    Args:
        sampler: A name, or an object.
        space: The search space.
        objectives: Metrics that the search optimizes.
        constrained: True if the search has constraints.
    """
    kind, name = kind_of(sampler), describe_choice(sampler)
    if any(one.__name__ in NOT_AS_OBJECTS for one in type(sampler).__mro__):
        return [Refusal("grid-by-name", f"sampler: a grid must be named, sampler='grid'; got {name}")]
    if kind is None or not space:
        return []
    problems = [*_space_problems(kind, name, space), *_aim_problems(kind, name, len(objectives), constrained)]
    if kind.package and find_spec(kind.package) is None:
        text = f"sampler: {name} needs a package: pip install {kind.package}; got none"
        problems.append(Refusal("sampler-package", text))
    return problems


def _space_problems(kind: SamplerKind, name: str, space: SearchSpace) -> Iterator[Refusal]:
    """Refuse a space of which a sampler would draw parts at random."""
    choices = [part.name for part in space.parts if not part.domain.numeric]
    if choices and not kind.choices:
        text = f"sampler: {name} learns about numbers only; got the choice {choices[0]}. Use tpe or gp"
        yield Refusal("sampler-numbers", text)
    conditional = [part.name for part in space.parts if part.conditions]
    if conditional and not kind.conditional:
        text = f"sampler: {name} draws conditional parts at random; got {conditional[0]}. Use tpe"
        yield Refusal("sampler-unconditional", text)


def _aim_problems(kind: SamplerKind, name: str, objectives: int, constrained: bool) -> Iterator[Refusal]:
    """Refuse objectives and constraints that a sampler cannot serve."""
    gp = kind.optuna_class == "GPSampler"
    most = 1 if gp and optuna_version() < GP_SINCE["objectives"] else kind.most
    if objectives < kind.fewest:
        text = f"sampler: {name} needs at least {kind.fewest} objectives; got {objectives}. Use tpe"
        yield Refusal("sampler-several-objectives", text)
    if most is not None and objectives > most:
        text = f"sampler: {name} serves one objective; got {objectives}. Use tpe or nsga2"
        yield Refusal("sampler-one-objective", text)
    if constrained and (not kind.constraints or (gp and optuna_version() < GP_SINCE["constraints"])):
        text = f"sampler: {name} does not learn from constraints; use tpe, gp, nsga2 or nsga3; got constraints"
        yield Refusal("sampler-constraints", text)
