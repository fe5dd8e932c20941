"""Search spaces: tables keyed as the configuration is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

from clsearch.config.trial import ConfigError, TrialConfig, fields_of
from clsearch.data.datasets import Source


@dataclass(frozen=True)
class Range:
    """The values from low to high of a number, linear or logarithmic; `space` needs low < high."""

    low: float
    high: float
    log: bool = False

    def points(self, n: int) -> list[float]:
        """n >= 2 values from low to high, both included, spaced as the range is."""
        steps = [i / (n - 1) for i in range(n)]
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            inner = [math.exp(low + s * (high - low)) for s in steps[1:-1]]
            inner = [float(f"{value:.12g}") for value in inner]  # 1000, not 1000.0000000000007
        else:
            inner = [self.low + s * (self.high - self.low) for s in steps[1:-1]]
        return [self.low, *inner, self.high]

    def scaled(self, by: float) -> Range:
        """The range times a number, its ends rounded to one digit."""
        return Range(float(f"{self.low * by:.0e}"), float(f"{self.high * by:.0e}"), self.log)


def LogRange(low: float, high: float) -> Range:
    """A range whose logarithm is searched evenly."""
    return Range(low, high, log=True)


Space = dict[str, Range]

LWF: Space = {
    "distillation_factor": LogRange(1e-4, 1e3),
    "distillation_temperature": LogRange(1e-2, 1e2),
}
EWC: Space = {
    "penalty_factor": LogRange(1e-1, 1e5),
    "penalty_p_norm": Range(1.0, 3.0),
}
LEARNING_RATE: Space = {"learning_rate": LogRange(1e-4, 1.0)}

SPACES: dict[str, Space] = {
    "finetuning": LEARNING_RATE,
    "joint": LEARNING_RATE,
    "independent": LEARNING_RATE,
    "lwf": LWF,
    "ewc": EWC,
    "lwf_ewc": LWF | EWC,
    "amnesiac_finetuning": {},  # all trials are measured against one model, with one learning rate
    "amnesiac_lwf": LWF,
    "amnesiac_ewc": EWC,
}
"""Algorithm -> hyperparameters of its own, over ranges whose ends are visibly bad (with the default Fisher)."""


def default_space(config: TrialConfig) -> Space:
    """The space of an algorithm where none is given: that of SPACES, without a temperature where there is none to
    search (`distance` mse), and with a penalty factor that follows how the Fisher information is measured and scaled.
    """
    space = dict(SPACES.get(config.algorithm, {}))
    if config.distance == "mse":
        space.pop("distillation_temperature", None)
    if "penalty_factor" in space:
        space["penalty_factor"] = space["penalty_factor"].scaled(1 / usual_fisher(config))
    return space


def usual_fisher(config: TrialConfig) -> float:
    """How much smaller than single samples' (`fisher` empirical, `fisher_scale` none) the Fisher information is.

    `batch` is about 1/batch size of it. `sampled` and `exact` are 1 to 10 times it where a task is not learned to the
    last sample, and up to 80 times where it is, because true labels have little gradient then. The sum after a task of
    split and permuted digits and MNIST measured 0.002 to 40, which `unit_trace` makes 1. The range, which they share,
    spans six decades.
    """
    size = 1.0
    if config.fisher == "batch" and config.fisher_scale != "unit_trace":
        size /= min(config.batch_size, config.fisher_samples or config.batch_size)
    if config.fisher_scale == "per_parameter":
        size /= backbone_parameters(config)
    return size


def backbone_parameters(config: TrialConfig) -> int:
    """How many parameters a configuration's backbone has. Loads torch where that is not an MLP."""
    if config.backbone == "mlp":
        widths = (math.prod(config.source.shape), *config.hidden)
        return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))
    from clsearch.networks.modules import factory_of, parameter_count
    from clsearch.networks.validation import problems_of

    factory = factory_of(config)
    if problems := problems_of(factory, config.source.shape):
        raise ConfigError(problems)
    return parameter_count(factory, config.source.shape)


def searchable() -> dict[str, str]:
    """Hyperparameters that may be searched, each with the scale of its range (`log` or `linear`)."""
    extras = {name: field.json_schema_extra for name, field in TrialConfig.model_fields.items()}
    return {name: str(extra["scale"]) for name, extra in extras.items() if isinstance(extra, dict)}


def check_space(algorithm: str, space: Space, settings: dict[str, Any], source: Source | None = None) -> None:
    """Refuse a space that is not of this algorithm, is empty of values, whose bounds break a rule, or of which a
    hyperparameter cannot act. source: the benchmark's, where it is known already.

    Raises ConfigError with one line per problem.
    """
    own = [name for name in fields_of(algorithm) if name in searchable()]
    problems = [
        f"{name}: not a hyperparameter that {algorithm} can search; known are {', '.join(own)}"
        for name in space
        if name not in own
    ]
    problems += [
        f"{name}: must be a Range or a LogRange, from low to high; got {values!r}"
        for name, values in space.items()
        if not isinstance(values, Range)
    ]
    if "distillation_temperature" in space and settings.get("distance") == "mse":
        problems.append(
            "distillation_temperature: must not be searched where distance is mse, which has no temperature; give one "
            "value instead of a range, or another distance"
        )
    for name, values in space.items():
        if name in own and isinstance(values, Range):
            problems += _range_problems(algorithm, name, values, settings, source)
    if problems:
        raise ConfigError(problems)


def _range_problems(
    algorithm: str, name: str, values: Range, settings: dict[str, Any], source: Source | None
) -> list[str]:
    for bound in (values.low, values.high):
        try:
            TrialConfig.of(algorithm, settings | {name: bound}, source)
        except ConfigError as error:
            broken = [problem for problem in error.problems if problem.startswith(f"{name}:")]
            if broken:
                return broken
    if values.log and values.low <= 0:
        return [f"{name}: a logarithmic range must begin above 0; got {values.low:g} to {values.high:g}"]
    if not values.low < values.high:
        return [f"{name}: a range must go from low to high; got {values.low:g} to {values.high:g}"]
    return []


def grid(space: Space, n: int) -> Iterable[dict[str, float]]:
    """All combinations of n points per dimension."""
    for values in product(*(r.points(n) for r in space.values())):
        yield dict(zip(space, values, strict=True))
