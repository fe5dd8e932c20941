"""A study: one question, one search space, one budget. Importing this module is cheap; Ray starts in `run`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

from clsearch.common.errors import (
    CLOSED_STDOUT_EXIT_CODE,
    ConfigError,
    RayDiedError,
    print_problems,
    script_refusals,
    silence_closed_stdout,
)
from clsearch.common.formatting import relative_path
from clsearch.common.interrupts import exit_process, signals_as_interrupt
from clsearch.common.redaction import printable, redact, redact_address
from clsearch.common.telemetry import disable_telemetry
from clsearch.config.sections import FOLDER
from clsearch.config.spaces import SearchSpace, SpaceLike
from clsearch.data.datasets import Data
from clsearch.methods.registry import known_fields, preset_settings
from clsearch.planning.command_line import Invocation, find_untied, parse
from clsearch.planning.config_file import WHEN, format_plan, to_flag, to_words
from clsearch.planning.options import ADDRESSES, Options
from clsearch.planning.plan import Plan, make_plan
from clsearch.planning.search_fields import search_fields, write_whens, write_words
from clsearch.planning.study_settings import StudySettings, add_settings

if TYPE_CHECKING:
    from clsearch.reporting.result import OpenedStudy, StudyResult


class Study:
    """A hyperparameter study: one question, one search, one record in results/<name>/.

    Constructing a study validates it and starts nothing. A folder of images and a grouping are read when it runs.

    Args:
        algorithm: Name of the method: finetuning, joint, independent, lwf, ewc, lwf_ewc, amnesiac_finetuning,
            amnesiac_lwf, amnesiac_ewc, or one that `clsearch.register` added.
        space: Hyperparameter -> a `Range`, `LogRange`, `IntRange`, `Choice`, Optuna distribution, or one value; with
            conditional parts, a list of such dicts and `When`. By default the algorithm's own hyperparameters that no
            keyword fixes, over ranges that follow the settings. `{}` trains one configuration.
        question: The question that the study answers; shown in its help and its report.
        **settings: Options of the study and settings that all trials share, see `StudySettings`; None stands for the
            default. Exactly one of `epochs` and `iterations` is required. A registered method takes its own fields too;
            a type checker does not know them, so pass them as `**cast(Any, {"strength": 0.1})`.

    Raises:
        ConfigError: If a setting is unknown or breaks a rule; `problems` has a line for each. In a script that does not
            catch it, it prints these lines and ends the process with exit code 2.

    Example:
        >>> from clsearch import LogRange, Study
        >>> study = Study(
        ...     algorithm="lwf",
        ...     name="temperature",
        ...     space={"distillation_temperature": LogRange(0.1, 10)},
        ...     benchmark="split-digits",
        ...     epochs=10,
        ... )
        >>> study.plan.trials
        32

        `study.main()` reads the command line, runs the study, prints its answer and exits; `study.run()` returns the
        answer.
    """

    def __init__(
        self, *, algorithm: str, space: SpaceLike | None = None, question: str = "", **settings: Unpack[StudySettings]
    ) -> None:
        self.algorithm = algorithm
        self.question = printable(redact(question.strip()))
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        self.settings: dict[str, Any] = preset_settings(algorithm, given.get("preset")) | given
        self.follow = space is None
        self.space = space or {}
        folders = (str(given.get(name, "")).startswith(FOLDER) for name in ("benchmark", "report_benchmark"))
        if not any(folders) and "grouping" not in given:
            with script_refusals():
                _ = self.plan  # refuse here all that needs no look at the disk

    @cached_property
    def plan(self) -> Plan:
        """The study as its script declares it. Raises ConfigError."""
        return make_plan(self.algorithm, self.space, self.question, self.settings, command=None, follow=self.follow)

    def run(self) -> StudyResult:
        """Run the study, or resume it if its folder exists.

        Returns:
            The result: `.trials`, `.best`, `.matrix(trial)`, `.figures`, see `StudyResult`.

        Raises:
            ConfigError: If the study cannot run; before anything expensive starts.
        """
        with script_refusals():
            disable_telemetry()
            return _carry_out(self.plan)

    @staticmethod
    def open(folder: str | Path) -> OpenedStudy:
        """Read the record of a study, finished or not.

        Args:
            folder: Folder of the study, results/<study>.

        Raises:
            ConfigError: If the folder holds no study.
        """
        from clsearch.reporting.result import OpenedStudy

        with script_refusals():
            return OpenedStudy.open(Path(folder).expanduser())

    def main(self, args: list[str] | None = None) -> NoReturn:
        """Run the study as its script does, then exit the process.

        Exit codes: 0 finished; 1 no trial finished, the final evaluation failed, or Ray died; 2 refused before it
        started; 130 interrupted.

        Args:
            args: Words of the command line; `sys.argv[1:]` if None.
        """
        exit_with(lambda: self._do(*self.planned(args)))

    def _do(self, plan: Plan, asked: Invocation) -> int:
        """Do what the command line asks for; return the exit code."""
        if asked.print_config:
            print(format_plan(plan, self.settings), end="")
            return 0
        if asked.dry_run:
            plan = started_from_known(plan)
            from clsearch.execution.dry_run import print_dry_run

            print_dry_run(plan, prepared(plan))
            return 0
        return _carry_out(plan).exit_code

    def plan_for(self, args: list[str] | None = None) -> Plan:
        """Return the plan of this study under a command line (default: `sys.argv[1:]`). Raises ConfigError."""
        return self.planned(args)[0]

    def planned(self, args: list[str] | None = None) -> tuple[Plan, Invocation]:
        """Return the plan under a command line, and what to do with it. Raises ConfigError."""
        # Defaults as validated: a script can give a list for a tuple, or text for a path.
        validated = {**vars(self.plan.config), **vars(self.plan.options)}
        given = {name: validated[name] for name in self.settings if name not in self.plan.space} | self.plan.fallbacks
        settings, space, asked = parse(self.algorithm, self.question, given, self.plan.space, args, self.follow)
        command = _command(self, settings, space, given)
        return make_plan(self.algorithm, space, self.question, settings, command, self.follow), asked


add_settings(Study, StudySettings)


def exit_with(run: Callable[[], int]) -> NoReturn:
    """Run the command of a script and exit with its exit code; with 2 if it is refused, 130 if it is interrupted."""
    disable_telemetry()
    with signals_as_interrupt():
        code = _exit_code(run)
    exit_process(code)


def _exit_code(run: Callable[[], int]) -> int:
    """Run a command; print why it ended early; return its exit code."""
    try:
        return run()
    except ConfigError as error:
        print_problems(error)
        return 2
    except RayDiedError as error:
        print(f"error: {error}. All records are kept. Re-run the same command to resume.", file=sys.stderr)
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError) and silence_closed_stdout():
            return CLOSED_STDOUT_EXIT_CODE
        if isinstance(error, ConnectionError):
            raise
        print(
            f"error: results: must stay writable while a study runs; got {printable(redact(str(error)))}",
            file=sys.stderr,
        )
        print("All records are kept. Re-run the same command to resume.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before or after the search, or pressed twice
        print("interrupted; re-run the same command to resume", file=sys.stderr)
        return 130


def _carry_out(plan: Plan) -> StudyResult:
    """Run a plan, or print its result again if nothing is left to do."""
    from clsearch.records.resume import nothing_left

    started, plan = time.monotonic(), started_from_known(plan)
    if nothing_left(plan):
        from clsearch.execution.preflight import check_places

        check_places(plan)
        from clsearch.execution.run_study import reprint

        return reprint(plan)
    held = [prepared(plan)]
    from clsearch.execution.dry_run import limit_time
    from clsearch.execution.run_study import execute

    limit = limit_time(plan, held[0], started)
    return execute(plan, held.pop, limit)  # keep no second copy beside the object store's


def started_from_known(plan: Plan) -> Plan:
    """Return the plan with what its study has and tries first: see `records.known`, `records.seed_extension`.

    Raises:
        ConfigError: They do not fit the study.
    """
    from clsearch.records.known import start_from_known
    from clsearch.records.seed_extension import with_further_seeds

    return start_from_known(
        with_further_seeds(plan), lambda line: None if plan.options.quiet else print(line, file=sys.stderr)
    )


def prepared(plan: Plan, data: Data | None = None) -> Data:
    """Check that a plan can run, and read its data.

    Args:
        plan: The plan.
        data: Data of its benchmark, if it is read already.

    Raises:
        ConfigError: If the plan cannot run.
    """
    from clsearch.execution.preflight import check
    from clsearch.records.known import check_room
    from clsearch.records.resume import check_same

    check_same(plan)
    check_room(plan)
    check(plan)
    from clsearch.execution.data_loading import load, load_report
    from clsearch.execution.sealed_data import check_sealed, fetch_test

    if plan.options.download:
        fetch_test(plan)
    if data is None:
        data = load(plan)
    else:
        load_report(plan)
    check_sealed(plan)
    if plan.space:
        _check_effect(plan, data)
    return data


def _check_effect(plan: Plan, data: Data) -> None:
    """Check that each searched hyperparameter acts, and show which one is checked. Raises ConfigError."""
    from rich.console import Console

    from clsearch.execution.sensitivity import check_sensitivity

    console, what = Console(stderr=True, quiet=plan.options.quiet), "checking that each searched hyperparameter acts"
    if not console.is_terminal:
        console.print(what)
    with console.status(what) as status:
        check_sensitivity(plan, data, lambda name: status.update(f"checking that {name} acts"))


def _command(study: Study, settings: dict[str, Any], space: SearchSpace, script_settings: dict[str, Any]) -> list[str]:
    """Write the command of a study: the script and every option that differs from its default, without secrets.

    Args:
        study: The study as its script declares it.
        settings: All settings of the study.
        space: Its search space.
        script_settings: Settings of the script.
    """
    words = [relative_path(Path(sys.executable)), sys.argv[0], *_space_words(study, space)]
    tied = find_untied(settings, script_settings)
    known = Options.model_fields | known_fields()
    preset = preset_settings(study.algorithm, settings.get("preset"))
    for name, value in settings.items():
        if name == "fresh":  # the recorded command resumes the study
            continue
        if name in ADDRESSES and value is not None:
            value = redact_address(value)
        named = name in (*study.plan.space.always, *tied) or name in preset
        if named or value != script_settings.get(name, known[name].default):
            words += to_words(name, value)
    own = () if study.follow else study.plan.space
    left_out = [name for name in own if name not in space and name not in settings]  # by --space
    words += [word for name in left_out for word in to_words(name, known[name].default)]
    return [redact(word) for word in words]


def _space_words(study: Study, space: SearchSpace) -> list[str]:
    """Write the parts of a search space that differ from the script's; conditional parts all together."""
    fields, words, script = search_fields(study.algorithm), list[str](), study.plan.space
    for part in space.parts:
        if not part.conditions and (study.follow or part not in script.parts):
            words += [to_flag(part.name), *write_words(fields[part.name], part.domain)]
    conditional = [part for part in space.parts if part.conditions]
    if conditional and (study.follow or conditional != [part for part in script.parts if part.conditions]):
        words += to_words(WHEN, write_whens(fields, space))
    return words
