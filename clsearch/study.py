"""A study: one question, one search space, one budget. Importing this module is cheap: Ray starts in `run`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from clsearch.common.errors import CLOSED_STDOUT_EXIT_CODE, ConfigError, print_problems, silence_closed_stdout
from clsearch.common.formatting import relative_path, without_password
from clsearch.config.hyperparameters import Space
from clsearch.config.sections import FOLDER
from clsearch.data.datasets import Data
from clsearch.methods.registry import known_fields, preset_settings
from clsearch.planning.command_line import Invocation, parse, untied
from clsearch.planning.config_file import option, written
from clsearch.planning.options import Options
from clsearch.planning.plan import Plan, make_plan

if TYPE_CHECKING:
    from clsearch.reporting.result import OpenedStudy, StudyResult


class Study:
    """A hyperparameter study. Any field of Options and of the algorithm's configuration is a keyword.

    space: the hyperparameters searched; unless given, the algorithm's own that no keyword fixes, over ranges that
    follow the settings (`default_space`). {} trains one configuration.
    Raises ConfigError where a setting is unknown or against its rule; a folder of images and a grouping are looked at
    when the study runs.

        study = Study(algorithm="lwf", name="mine", benchmark="split-digits", epochs=10)
        study.main()    # reads the command line, prints, exits
        study.run()     # from Python
    """

    def __init__(self, *, algorithm: str, space: Space | None = None, question: str = "", **settings: Any) -> None:
        self.algorithm = algorithm
        self.question = question.strip()
        given = {name: value for name, value in settings.items() if value is not None}
        self.settings = preset_settings(algorithm, settings.get("preset")) | given
        self.follow = space is None
        self.space = space or {}
        folders = (str(given.get(name, "")).startswith(FOLDER) for name in ("benchmark", "report_benchmark"))
        if not any(folders) and "grouping" not in given:
            _ = self.plan  # what can be refused without a look at the disk is refused here

    @cached_property
    def plan(self) -> Plan:
        """The study as its script has it. Raises ConfigError."""
        return make_plan(self.algorithm, self.space, self.question, self.settings, command=None, follow=self.follow)

    def run(self) -> StudyResult:
        """Run the study; gives what it found: `.trials`, `.best`, `.matrix(trial)`, `.figures`, see `StudyResult`.

        Raises ConfigError, before anything expensive starts, where it cannot.
        """
        return _carry_out(self.plan)

    @staticmethod
    def open(folder: str | Path) -> OpenedStudy:
        """Read a study back from results/<study>, ended or not. Raises ConfigError where there is none."""
        from clsearch.reporting.result import OpenedStudy

        return OpenedStudy.open(Path(folder).expanduser())

    def main(self, args: list[str] | None = None) -> NoReturn:
        """Run the study as its script does: options from `args` (default: the command line), then exit.

        Exit codes: 0 done; 1 no trial finished, or its final evaluation failed; 2 refused before starting; 130
        interrupted.
        """
        exit_with(lambda: self._do(*self.planned(args)))

    def _do(self, plan: Plan, asked: Invocation) -> int:
        """What a command line asks for; gives the exit code."""
        if asked.print_config:
            print(written(plan, self.settings), end="")
            return 0
        if asked.dry_run:
            from clsearch.execution.dry_run import print_dry_run

            print_dry_run(plan, prepared(plan))
            return 0
        return _carry_out(plan).exit_code

    def plan_for(self, args: list[str] | None = None) -> Plan:
        """The plan of this study changed by a command line. Raises ConfigError."""
        return self.planned(args)[0]

    def planned(self, args: list[str] | None = None) -> tuple[Plan, Invocation]:
        """The same, and what the command line asks to be done with it."""
        # Defaults as validated: a script may give a list for a tuple, or text for a path.
        validated = {**vars(self.plan.config), **vars(self.plan.options)}
        own = {name: validated[name] for name in self.settings if name not in self.plan.space}
        settings, space, asked = parse(self.algorithm, self.question, own, self.plan.space, args, self.follow)
        changed = {name: r for name, r in space.items() if self.follow or self.plan.space.get(name) != r}
        command = _command(self.algorithm, settings, changed, own, self.plan.space)
        return make_plan(self.algorithm, space, self.question, settings, command, self.follow), asked


def exit_with(run: Callable[[], int]) -> NoReturn:
    """Run, and leave the process with the exit code that it gives, 2 where it is refused, 130 where interrupted."""
    try:
        code = run()
    except ConfigError as error:
        print_problems(error)
        sys.exit(2)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and silence_closed_stdout():
            sys.exit(CLOSED_STDOUT_EXIT_CODE)
        if isinstance(error, ConnectionError):
            raise
        print(f"error: results: must stay writable while a study runs; got {error}", file=sys.stderr)
        print("What was recorded stays. The same command goes on from there.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # before or after the search; within it, Ray ends the trials in order
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code)


def _carry_out(plan: Plan) -> StudyResult:
    from clsearch.records.resume import nothing_left

    if nothing_left(plan):
        from clsearch.execution.preflight import check_places

        check_places(plan)
        from clsearch.execution.run_study import reprint

        return reprint(plan)
    held = [prepared(plan)]
    from clsearch.execution.run_study import execute

    return execute(plan, held.pop)  # the object store's copy shall be the only one


def prepared(plan: Plan, data: Data | None = None) -> Data:
    """The data of a plan that may run, all checks passed. data: of its benchmark, where that is read already.

    Raises ConfigError.
    """
    from clsearch.execution.preflight import check
    from clsearch.records.resume import check_same

    check_same(plan)
    check(plan)
    from clsearch.execution.data_loading import load, load_report

    if plan.options.download:
        from clsearch.execution.final_evaluation import fetch_test

        fetch_test(plan)
    if data is None:
        data = load(plan)
    else:
        load_report(plan)
    if plan.space:
        _check_effect(plan, data)
    return data


def _check_effect(plan: Plan, data: Data) -> None:
    from rich.console import Console

    from clsearch.execution.sensitivity import check_sensitivity

    console, what = Console(stderr=True, quiet=plan.options.quiet), "checking that each searched hyperparameter acts"
    if not console.is_terminal:
        console.print(what)
    with console.status(what) as status:
        check_sensitivity(plan, data, lambda name: status.update(f"checking that {name} acts"))


def _command(
    algorithm: str, settings: dict[str, Any], changed: Space, script_settings: dict[str, Any], script_space: Space
) -> list[str]:
    """The script and every option that differs from its defaults, without passwords. changed: ranges that do."""
    words = [relative_path(Path(sys.executable)), sys.argv[0]]
    for name, values in changed.items():
        words += option(name, values)
    tied = untied(settings, script_settings)
    known = Options.model_fields | known_fields()
    preset = preset_settings(algorithm, settings.get("preset"))
    for name, value in settings.items():
        if name == "fresh":  # the recorded command goes on
            continue
        if name in ("tracking_uri", "mirror") and value is not None:
            value = without_password(value)
        named = name in (*script_space, *tied) or name in preset
        if named or value != script_settings.get(name, known[name].default):
            words += option(name, value)
    return words
