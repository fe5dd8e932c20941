"""The configuration of one trial: frozen, validated, unknown keys refused.

`TrialConfig` is flat because the same names are the keys of a search space, the options of a command line and the
parameters of an MLflow run. Each algorithm has a class of its own, made of the sections that act in it; build one with
`methods.registry.configure`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

from pydantic import ValidationError, ValidationInfo, create_model, model_validator

from clsearch.common.echo import echo
from clsearch.common.errors import ConfigError, Refusal, RuleError, did_you_mean
from clsearch.config.data_source import find_source
from clsearch.config.rules import RULES
from clsearch.config.sections import (
    BENCHMARKS,
    COMMON_SECTIONS,
    BenchmarkConfig,
    NetworkConfig,
    Section,
    TaskConstruction,
    TrainingConfig,
    hyperparameters_in,
)
from clsearch.config.unlearning import UnlearningConfig
from clsearch.data.datasets import Source

MOST_TASKS = 20
"""A split benchmark has two classes per task, but 10 tasks if two classes per task make more tasks than this."""

Derive = Callable[[Mapping[str, Any]], dict[str, Any]]
"""(settings, the scenario among them) -> defaults of a method's fields that depend on others."""

Rule = Callable[["TrialConfig"], Sequence[str]]
"""Returns the problems of a configuration, one `Refusal` each, or a line `field: rule; got value`."""


def derived_defaults(settings: Mapping[str, Any], source: Source | None) -> dict[str, Any]:
    """Compute the defaults that depend on other fields.

    Args:
        settings: Flat: field -> value.
        source: Of the benchmark; None if a rule of the benchmark's own fields refuses it.
    """
    backbone = settings.get("backbone", "mlp")
    hidden = {"mlp": (256, 256), "cnn": (128,)}.get(backbone, ()) if isinstance(backbone, str) else ()
    if source is None:
        return {"scenario": "task", "tasks": 2, "hidden": hidden}
    split = (
        BENCHMARKS.get(settings.get("benchmark", "split-digits"), (TaskConstruction.SPLIT,))[0]
        is TaskConstruction.SPLIT
    )
    counts = source.groups or settings.get("classes_per_task")
    pairs = len(source.classes) // 2
    tasks = len(counts) if isinstance(counts, list | tuple) else pairs if split and pairs <= MOST_TASKS else 10
    return {"scenario": "task" if split else "domain", "tasks": max(2, tasks), "hidden": hidden}


class TrialConfig(BenchmarkConfig, NetworkConfig, TrainingConfig, UnlearningConfig):
    """A complete configuration. Fields of sections that do not act in its algorithm keep their defaults."""

    sections: ClassVar[tuple[type[Section], ...]] = COMMON_SECTIONS

    algorithm: str = "finetuning"

    @classmethod
    def build(
        cls,
        algorithm: str,
        settings: Mapping[str, Any],
        source: Source | None = None,
        derive: Derive = lambda settings: {},
        rule: Rule = lambda config: [],
    ) -> TrialConfig:
        """Validate flat settings.

        Args:
            algorithm: Name of the algorithm.
            settings: Field -> value; None stands for the default. Unknown names are refused.
            source: Of the benchmark, if it is known; otherwise a folder of images is listed for it.
            derive: Computes the defaults of a method's fields.
            rule: Checks the rules of a method.

        Raises:
            ConfigError: With one line per problem.
        """
        known = cls.acting_fields()
        if unknown := [key for key in settings if key not in known]:
            listed = ", ".join(known)
            raise ConfigError(
                Refusal(
                    "setting-of-algorithm",
                    f"{key}: not a setting of {algorithm}{did_you_mean(str(key), known)}; known are {listed}",
                )
                for key in unknown
            )
        given = {k: v for k, v in settings.items() if v is not None}
        context = {"source": source or find_source(given), "derive": derive, "rule": rule}
        try:
            return cls.model_validate({"algorithm": algorithm} | given, context=context)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        context = info.context or {}
        complete = derived_defaults(settings, context.get("source")) | settings
        return (context["derive"](complete) if "derive" in context else {}) | complete

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> TrialConfig:
        """Check rules between fields. pydantic keeps the ConfigError, so that `explain` finds the rules again."""
        context = info.context or {}
        self._source = context["source"]
        if problems := [problem for rule in (*RULES, context["rule"]) for problem in rule(self)]:
            raise ConfigError(problems)
        return self

    @classmethod
    def acting_fields(cls) -> tuple[str, ...]:
        """Return the names of the fields that act in the algorithm, in the order of its sections."""
        return tuple(name for section in cls.sections for name in section.model_fields)

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Names of the numbers that a study can search; members of a cohort can differ in them."""
        return tuple(hyperparameters_in(self.sections))

    @property
    def unlearns(self) -> bool:
        """Whether the algorithm can unlearn tasks."""
        return UnlearningConfig in self.sections

    def flat(self) -> dict[str, Any]:
        """Return every setting that acts in the algorithm as a plain value: name -> number, text, list or None."""
        return self.model_dump(mode="json", include=set(self.acting_fields()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle sections and values: a class made at run time has no address, and a worker need not validate again."""
        return restore_config, (self.sections, dict(self.__dict__), self._source)


@cache
def config_class(sections: tuple[type[Section], ...]) -> type[TrialConfig]:
    """Make the class of configurations in which these sections act."""
    bases: Any = (TrialConfig, *(section for section in sections if not issubclass(TrialConfig, section)))
    made: type[TrialConfig] = create_model("TrialConfig", __base__=bases, __module__=__name__)
    made.sections = sections
    return made


def restore_config(sections: tuple[type[Section], ...], values: dict[str, Any], source: Source) -> TrialConfig:
    """Rebuild a configuration from the arguments that `TrialConfig.__reduce__` returns."""
    config = config_class(sections).model_construct(**values)
    config._source = source
    return config


PLAINLY = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be several values, a tuple or list",
}
"""Type of pydantic error whose message is worded for programmers -> the rule in plain words."""


def explain(error: ValidationError) -> list[Refusal]:
    """Turn a pydantic error into refusals: field, rule, value."""
    refusals: list[Refusal] = []
    for problem in error.errors():
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            refusals += cause.problems
            continue
        rule, words = rule_of(problem)
        field = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
        lines = [f"{field}: {words}; got {echo(problem['input'])}"] if field else words.split("\n")
        refusals += [Refusal(rule, line) for line in lines]
    return refusals


def rule_of(problem: Mapping[str, Any]) -> tuple[str, str]:
    """Return the id and the words of the rule that one of pydantic's `errors()` names."""
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, RuleError):
        return cause.rule, str(cause)
    words = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return problem["type"].replace("_", "-"), PLAINLY.get(problem["type"], words)
