"""A validated study. Importing this module is cheap."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clsearch.common.echo import ShortRepr
from clsearch.common.errors import ConfigError, Refusal, did_you_mean
from clsearch.config.domains import Domains
from clsearch.config.plain_values import Values
from clsearch.config.spaces import SearchSpace, SpaceLike
from clsearch.config.trial import TrialConfig
from clsearch.methods.registry import (
    configure,
    decaying,
    default_space,
    fields_of,
    method_named,
    methods,
    preset_settings,
)
from clsearch.planning.budget import check_budget
from clsearch.planning.enqueued import Enqueued, WarmStart, check_number, read_enqueued
from clsearch.planning.options import Options, Protocol
from clsearch.planning.protocols import (
    RATE_STEPS,
    check_protocol,
    check_report,
    report_settings,
    reported_tasks,
    reporting_seeds,
    searched_tasks,
)
from clsearch.planning.samplers import GENETIC, NSGA_TRIALS
from clsearch.planning.search_fields import search_fields
from clsearch.planning.spaces import add_defaults, check_space, read_written_space, resolve_space

DEFAULT_TRIALS = 32
NOT_SETTINGS = ("config", "print_config", "dry_run", "space", "when", "if", "algorithm", "question")
"""Options and keywords of a study that are no settings."""


@dataclass(frozen=True)
class SeedExtension:
    """Seeds that a study got after it began.

    Attributes:
        seeds: The seeds.
        all: True if every finished trial is trained on them, false if only those not shown worse than the best are.
    """

    seeds: tuple[int, ...]
    all: bool = False


@dataclass(frozen=True, repr=False)
class Plan(ShortRepr):
    """A validated study, for the driver to run.

    Args:
        question: The question that the study answers.
        algorithm: Name of the algorithm.
        space: The search space.
        settings: Flat settings that all trials share, as given; defaults that follow other fields are not filled in.
        config: A complete configuration of the study, with the low end of each range and the first of each choice.
        report: The same on the benchmark that two_phase reports on; None with other protocols.
        options: Every option that is not part of a trial's configuration.
        trials: Number of configurations.
        command: The script and the options that differ from its defaults; None outside a script.
        enqueued: Configurations that are tried first.
        warm_start: The study that some of them come from.
        further: Seeds that the study got after it began, in order; see `records.further_seeds`.
    """

    question: str
    algorithm: str
    space: SearchSpace
    settings: dict[str, Any]
    config: TrialConfig
    report: TrialConfig | None
    options: Options
    trials: int
    command: list[str] | None
    enqueued: tuple[Enqueued, ...] = ()
    warm_start: WarmStart | None = None
    further: tuple[SeedExtension, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of every configuration in the search."""
        return tuple(range(self.options.first_seed, self.options.first_seed + self.options.seeds))

    @property
    def every_seed(self) -> tuple[int, ...]:
        """Seeds of the search, and those that some trials got later."""
        return (*self.seeds, *(seed for extension in self.further for seed in extension.seeds))

    @property
    def fallbacks(self) -> dict[str, Any]:
        """Settings of hyperparameters that are searched under conditions only: the values of all other trials."""
        return {name: self.settings[name] for name in self.space if name in self.settings}

    @property
    def report_seeds(self) -> tuple[int, ...]:
        """Fresh seeds of the final evaluation."""
        return reporting_seeds(self.options, self.config)

    @property
    def protocol(self) -> Protocol:
        """Protocol: the data that the search sees."""
        return self.options.protocol

    @property
    def tasks(self) -> tuple[int, ...]:
        """Numbers of the tasks that the search learns."""
        return searched_tasks(self.options, self.config.tasks)

    @property
    def reported(self) -> tuple[int, ...]:
        """Numbers of the tasks that the final evaluation reports on."""
        return reported_tasks(self.options, self.config.tasks)

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates from which continual chooses."""
        rate = self.config.learning_rate
        return self.options.learning_rates or tuple(float(f"{step * rate:.6g}") for step in RATE_STEPS)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Metrics that the search optimizes."""
        return self.options.objectives

    @property
    def constraints(self) -> dict[str, float]:
        """Metric -> the value that a trial must keep, see `objectives.violation`."""
        return self.options.constraints

    @property
    def references(self) -> tuple[str, ...]:
        """Reference algorithms, trained on the same seeds; if the study unlearns, their variants that unlearn too."""
        unlearning = {m.base: name for name, m in methods().items() if m.base} if self.config.unlearns else {}
        names = {name: unlearning.get(name, name) for name in self.options.references}
        return tuple(name for name in names.values() if name != self.algorithm)

    @property
    def cohort(self) -> int:
        """Maximum number of configurations that train as one batch."""
        return min(self.options.cohort, self.trials)

    @property
    def device(self) -> str:
        """Device of the trials: cpu or cuda."""
        if self.options.device != "auto":
            return self.options.device
        return "cuda" if self.options.gpus_per_trial > 0 else "cpu"

    @property
    def folder(self) -> Path:
        """Folder of the study, results/<study>, absolute."""
        return self.options.results.resolve() / self.options.name

    def trial_config(
        self,
        values: Values,
        algorithm: str | None = None,
        on: TrialConfig | None = None,
        changed: Mapping[str, Any] | None = None,
    ) -> TrialConfig:
        """Make the configuration of a trial.

        Args:
            values: Its hyperparameters, plain.
            algorithm: Another algorithm than the study's, with the same settings.
            on: `report`, for a trial on the benchmark to report on.
            changed: Settings in place of the study's.
        """
        algorithm, settings = algorithm or self.algorithm, self.settings
        if on is not None and on is self.report:
            settings = report_settings(settings, self.config, on.benchmark)
        known = fields_of(algorithm)
        whole = settings | self.space.settings_of(values) | dict(changed or {})
        settings = {name: value for name, value in whole.items() if name in known}
        return configure(algorithm, settings, (on or self.config).source)


def make_plan(
    algorithm: str,
    space: SpaceLike,
    question: str,
    settings: dict[str, Any],
    command: list[str] | None,
    follow: bool = False,
) -> Plan:
    """Validate a study.

    Args:
        algorithm: Name of the algorithm.
        space: The search space, as its user wrote it.
        question: The question that the study answers.
        settings: Flat options and settings; None stands for the default.
        command: The script and its options; None outside a script.
        follow: Search the hyperparameters that `space` and `settings` leave out over their default ranges, which follow
            the settings.

    Raises:
        ConfigError: With one line per problem.
    """
    _check_known(algorithm, settings)
    written, fixed = read_written_space(algorithm, space)
    settings = settings | fixed
    given = {k: v for k, v in settings.items() if k in Options.model_fields}
    shared = {k: v for k, v in settings.items() if k not in given and k not in written.always and v is not None}
    options = Options.of(given)
    config = configure(algorithm, shared | written.settings_of(written.first))
    if options.preset and not preset_settings(algorithm, options.preset):
        text = f"preset: must set something that acts in {algorithm}; got {options.preset}"
        raise ConfigError([Refusal("preset-acts", text)])
    if follow:
        written = add_defaults(written, _default_space(config, options, shared))
    searched = resolve_space(written, config)
    trials = count_trials(options, searched)
    if problems := check_budget(options, config, trials, searched):
        raise ConfigError(problems)
    check_space(algorithm, searched, shared, config.source)
    first = shared | searched.settings_of(searched.first)
    config = configure(algorithm, first, config.source)
    if problems := check_protocol(options, {*given}, config, searched):
        raise ConfigError(problems)
    _check_trials(options, searched)
    report = _report_config(options, first, config)
    if report is not None:
        _check_report_space(algorithm, searched, report_settings(shared, config, report.benchmark), report)
    plan = Plan(question, algorithm, searched, shared, config, report, options, trials, command)
    _check_references(plan)
    enqueued = read_enqueued(options, search_fields(algorithm), searched, config, plan.trial_config)
    check_number(options, enqueued, trials)
    return replace(plan, enqueued=enqueued)


def _check_known(algorithm: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that neither the algorithm nor a study has. Raises ConfigError."""
    fields = method_named(algorithm).fields
    if twice := [name for name in fields if name in (*Options.model_fields, *NOT_SETTINGS)]:
        text = f"{twice[0]}: must not be a setting of {algorithm}, because it is an option of every study"
        raise ConfigError([Refusal("option-of-study", f"{text}; got one of that name")])
    known = {*fields, *Options.model_fields}
    if unknown := [name for name in settings if name not in known]:
        listed = ", ".join(sorted(known))
        raise ConfigError(
            Refusal("setting-known", f"{name}: unknown{did_you_mean(name, known)}; known are {listed}")
            for name in unknown
        )


def _check_references(plan: Plan) -> None:
    """Refuse references that the settings do not allow. Raises ConfigError."""
    for reference in plan.references:
        try:
            plan.trial_config(plan.space.first, reference)
        except ConfigError as error:
            hint = f"Leave {reference} out of the references"
            raise ConfigError(Refusal(problem.rule, f"{problem}. {hint}") for problem in error.problems) from None


def _report_config(options: Options, settings: dict[str, Any], config: TrialConfig) -> TrialConfig | None:
    """Make the study's configuration on the benchmark that two_phase reports on. Raises ConfigError."""
    if options.report_benchmark is None:
        return None
    try:
        report = configure(config.algorithm, report_settings(settings, config, options.report_benchmark))
    except ConfigError as error:
        raise ConfigError(
            Refusal(problem.rule, f"report_benchmark: {problem.removeprefix('benchmark: ')}")
            for problem in error.problems
        ) from None
    check_report(config, report)
    return report


def _check_report_space(algorithm: str, space: SearchSpace, settings: dict[str, Any], report: TrialConfig) -> None:
    """Refuse values that the benchmark to report on cannot have: the choice is trained there. Raises ConfigError."""
    try:
        check_space(algorithm, space, settings, report.source)
    except ConfigError as error:
        raise ConfigError(
            Refusal(problem.rule, f"{problem}, on {report.benchmark}, the report benchmark")
            for problem in error.problems
        ) from None


def _default_space(config: TrialConfig, options: Options, named: Collection[str]) -> Domains:
    """Return the algorithm's default ranges of hyperparameters that nobody named and that the protocol searches."""
    continual = options.protocol is Protocol.CONTINUAL
    return {
        name: values
        for name, values in default_space(config).items()
        if name not in named and (not continual or name in decaying())
    }


def count_trials(options: Options, space: SearchSpace) -> int:
    """Count the configurations of a study."""
    if options.protocol is Protocol.CONTINUAL or not space:
        return 1
    return space.count_grid(options.grid_points) if options.sampler == "grid" else options.trials or DEFAULT_TRIALS


def _check_trials(options: Options, space: SearchSpace) -> None:
    """Refuse a number of trials that does not fit the space or the sampler. Raises ConfigError."""
    if options.protocol is Protocol.CONTINUAL:
        return
    asked, points = options.trials, count_trials(options, space)
    if not space and asked not in (None, 1):
        text = f"trials: must be 1 if nothing is searched; got {asked}"
        raise ConfigError([Refusal("one-trial-without-search", text)])
    if space and options.sampler in GENETIC and points < NSGA_TRIALS:
        text = f"trials: must be at least {NSGA_TRIALS} with {options.sampler}, two generations; got {asked}"
        raise ConfigError([Refusal("two-generations", text)])
    if space and options.sampler == "grid" and asked not in (None, points):
        rule = (
            f"a grid of {options.grid_points} points per range in {len(space)} dimensions has {points} trials, so "
            "leave --trials out"
        )
        raise ConfigError([Refusal("trials-of-grid", f"trials: {rule}; got {asked}")])


def tracking_uri(plan: Plan) -> str | None:
    """Return the tracking server or store that the user names, or None for the study's own."""
    return plan.options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
