"""A study: one question, one search space, one budget. Importing this module is cheap: Ray starts in `run`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from clsearch.core.config import ConfigError, TrialConfig, fields_of
from clsearch.tuning.options import Options, parse
from clsearch.tuning.spaces import Range, Space, check_space

if TYPE_CHECKING:
    from clsearch.tuning.driver import StudyResult

DEFAULT_TRIALS = 32


@dataclass(frozen=True)
class Plan:
    """A study, validated: what the driver carries out.

    question: what the study answers. space: hyperparameter -> range searched. settings: flat settings that all trials
    share, as given (defaults that follow other fields are not filled in). config: a full configuration of the study,
    with the low end of each range. trials: how many configurations. command: the script and the options that differ
    from its defaults; None outside a script.
    """

    question: str
    algorithm: str
    space: Space
    settings: dict[str, Any]
    config: TrialConfig
    options: Options
    trials: int
    command: list[str] | None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every configuration is trained on."""
        return tuple(range(self.options.first_seed, self.options.first_seed + self.options.seeds))

    @property
    def folder(self) -> Path:
        """results/<study>, absolute."""
        return self.options.results.expanduser().resolve() / self.options.name

    def trial_config(self, values: dict[str, float], algorithm: str | None = None) -> TrialConfig:
        """The configuration of a trial with these hyperparameters, or of another algorithm with the same settings."""
        algorithm = algorithm or self.algorithm
        known = fields_of(algorithm)
        return TrialConfig.of(algorithm, {k: v for k, v in (self.settings | values).items() if k in known})


class Study:
    """A hyperparameter study. Any field of Options and of the algorithm's configuration is a keyword.

    Raises ConfigError where a setting is unknown or against its rule.

        study = Study(algorithm="lwf", space=SPACES["lwf"], name="mine", benchmark="split-digits", epochs=10)
        study.main()    # reads the command line, prints, exits
        study.run()     # from Python
    """

    def __init__(self, *, algorithm: str, space: Space, question: str = "", **settings: Any) -> None:
        self.algorithm = algorithm
        self.space = space
        self.question = question.strip()
        self.settings = settings
        self.plan = make_plan(algorithm, space, self.question, settings, command=None)

    def run(self) -> StudyResult:
        """Run the study. Raises ConfigError, before anything expensive starts, where it cannot."""
        return _carry_out(self.plan)

    def main(self, args: list[str] | None = None) -> NoReturn:
        """Run the study as its script does: options from `args` (default: the command line), then exit.

        Exit codes: 0 done; 1 no trial finished; 2 refused before starting; 130 interrupted.
        """
        try:
            settings, space = parse(self.algorithm, self.question, self.settings, self.space, args)
            command = _command(settings, space, self.settings, self.space)
            result = _carry_out(make_plan(self.algorithm, space, self.question, settings, command))
        except ConfigError as error:
            for problem in error.problems:
                print(f"error: {problem}", file=sys.stderr)
            sys.exit(2)
        sys.exit(result.exit_code)


def make_plan(
    algorithm: str, space: Space, question: str, settings: dict[str, Any], command: list[str] | None
) -> Plan:
    """Validate a study. Raises ConfigError."""
    own = {k: v for k, v in settings.items() if k in Options.model_fields}
    shared = {k: v for k, v in settings.items() if k not in Options.model_fields and k not in space}
    options = Options.of(own)
    config = TrialConfig.of(algorithm, shared)
    check_space(algorithm, space, shared)
    config = TrialConfig.of(algorithm, shared | {name: r.low for name, r in space.items()})
    trials = _budget(options, space)
    return Plan(question, algorithm, space, shared, config, options, trials, command)


def _budget(options: Options, space: Space) -> int:
    if not space:
        if options.trials not in (None, 1):
            raise ConfigError([f"trials: must be 1 where nothing is searched; got {options.trials}"])
        return 1
    if options.sampler != "grid":
        return options.trials or DEFAULT_TRIALS
    points = options.grid_points ** len(space)
    if options.trials not in (None, points):
        raise ConfigError(
            [
                f"trials: a grid of {options.grid_points} points in {len(space)} dimensions has {points} trials, "
                f"so leave --trials out; got {options.trials}"
            ]
        )
    return points


def _carry_out(plan: Plan) -> StudyResult:
    from clsearch.tuning.preflight import check

    check(plan)
    from clsearch.tuning.driver import execute

    return execute(plan)


def _command(
    settings: dict[str, Any], space: Space, script_settings: dict[str, Any], script_space: Space
) -> list[str]:
    """The script and every option that differs from its defaults."""
    words = ["python", sys.argv[0]]
    for name, values in space.items():
        if script_space.get(name) != values:
            words += _option(name, values)
    known = {**Options.model_fields, **TrialConfig.model_fields}
    for name, value in settings.items():
        if value != script_settings.get(name, known[name].default):
            words += _option(name, value)
    return words


def _option(name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    match value:
        case Range():
            return [option, f"{value.low:g}", f"{value.high:g}"]
        case True | False if name in Options.model_fields or name == "average_over_tasks":
            return [option if value else option.replace("--", "--no-", 1)]
        case tuple() | list():
            return [option, *map(str, value)]
        case _:
            return [option, str(value)]
