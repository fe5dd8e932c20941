"""A comparison: several studies that differ in the algorithm or the protocol, and one table of their results."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

from clsearch.common.errors import ConfigError, Refusal, did_you_mean, script_refusals
from clsearch.common.formatting import relative_path
from clsearch.common.redaction import printable, redact, redact_address
from clsearch.common.telemetry import disable_telemetry
from clsearch.common.words import redact_words
from clsearch.config.sections import FOLDER
from clsearch.config.spaces import SearchSpace, SpaceLike
from clsearch.data.datasets import Data, Source
from clsearch.methods.registry import fields_of, method_named, methods, preset_settings, presets
from clsearch.planning.command_line import Invocation, parse
from clsearch.planning.config_file import dump_options
from clsearch.planning.options import ADDRESSES, Options, Protocol
from clsearch.planning.plan import Plan, make_plan
from clsearch.planning.protocols import PROTOCOL_OPTIONS, SEARCH_OPTIONS
from clsearch.planning.search_fields import search_fields
from clsearch.planning.study_settings import SharedSettings, add_settings
from clsearch.study import exit_with, prepared, started_from_known

if TYPE_CHECKING:
    from clsearch.reporting.result import StudyResult

KINDS = ("methods", "protocols")
"""Subjects of a comparison."""


LIMITS = ("hours", "patience")
"""Options of a study that ends before its trials; compared studies have as many trials each."""


class Comparison:
    """Studies that share settings, run one after the other; each ends with its final evaluation.

    Each study has its record in results/<name>-<label>/, the comparison its table in results/<name>/.

    Args:
        name: Name of the comparison, and of its folder in the results.
        studies: Label -> the study's own settings: its algorithm, protocol, or any other. A study does not search what
            it fixes, even if the others search it.
        algorithm: Algorithm of the studies that name none; the command line has its options.
        kind: Subject of the table: `methods` or `protocols`.
        space: Hyperparameter -> the range to search, for the studies in which it acts. By default each algorithm's own
            hyperparameters that no setting fixes.
        question: The question that the comparison answers; shown in its help and its report.
        **settings: Options and settings that the studies share, as in `Study`; each study takes those that act in it.
            A type checker does not know the fields of registered methods, so pass them as
            `**cast(Any, {"strength": 0.1})`.

    Raises:
        ConfigError: If a setting is unknown or breaks a rule; each line names the study. In a script that does not
            catch it, it prints these lines and ends the process with exit code 2.

    Example:
        >>> from clsearch import Comparison
        >>> comparison = Comparison(
        ...     name="against-finetuning",
        ...     studies={"LwF": {"algorithm": "lwf"}, "EWC": {"algorithm": "ewc"}},
        ...     algorithm="lwf",
        ...     kind="methods",
        ...     epochs=10,
        ...     trials=16,
        ... )
        >>> list(comparison.plans)
        ['LwF', 'EWC']

        `comparison.main()` reads the command line, runs the studies, prints the table and exits; `comparison.run()`
        returns the results.
    """

    def __init__(
        self,
        *,
        name: str,
        studies: Mapping[str, Mapping[str, Any]],
        algorithm: str,
        kind: str,
        space: SpaceLike | None = None,
        question: str = "",
        **settings: Unpack[SharedSettings],
    ) -> None:
        self.studies, self.algorithm, self.kind = studies, algorithm, kind
        self.question = printable(redact(question.strip()))
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in settings.items()
            if value is not None
        }
        if "results" in given:
            given["results"] = Path(given["results"])
        self.settings: dict[str, Any] = given | {"name": name}
        self.follow, self.space = space is None, space or {}
        with script_refusals():
            if kind not in KINDS or not studies:
                text = f"kind: must be one of {', '.join(KINDS)}, of at least one study; got {kind!r}"
                raise ConfigError([Refusal("comparison-kind", text)])
            if not any(looks_at_disk(given | dict(own)) for own in studies.values()):
                _ = self.plans

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """Label -> plan of the study as the script declares it. Raises ConfigError."""
        return self.plans_of(self.settings, self.space)

    def plans_of(self, settings: dict[str, Any], space: SpaceLike) -> dict[str, Plan]:
        """Make the plan of each study from these settings. Raises ConfigError that names the study."""
        known = {"algorithm", *Options.model_fields, *(name for one in methods().values() for name in one.fields)}
        every = {*settings}.union(*self.studies.values())
        if unknown := sorted(every - known):
            listed = ", ".join(sorted(known))
            raise ConfigError(
                Refusal("setting-known", f"{name}: unknown{did_you_mean(name, known)}; known are {listed}")
                for name in unknown
            )
        if limited := [name for name in LIMITS for own in (settings, *self.studies.values()) if own.get(name)]:
            text = "compared studies must have the same budget, which is --trials; got"
            raise ConfigError([Refusal("budget-of-trials", f"{limited[0]}: {text} {limited[0]}")])
        plans, whole = {}, SearchSpace.of(space)
        for label, own in self.studies.items():
            try:
                shared = whole.only(partial(_not_in, own))
                plans[label] = self._plan(label, settings | dict(own), shared)
            except ConfigError as error:
                raise ConfigError(
                    Refusal(problem.rule, f"{problem} (study {label})") for problem in error.problems
                ) from None
        budgets = {plan.trials for plan in plans.values() if plan.space and plan.protocol is not Protocol.CONTINUAL}
        if len(budgets) > 1:
            shown = " ".join(map(str, sorted(budgets)))
            text = f"sampler: compared studies must have the same budget; got {shown} trials"
            raise ConfigError([Refusal("same-budget", text)])
        return plans

    def _plan(self, label: str, settings: dict[str, Any], space: SearchSpace) -> Plan:
        """Make the plan of one study from the shared settings that act in it."""
        algorithm = settings.pop("algorithm", self.algorithm)
        method = method_named(algorithm)
        if not preset_settings(algorithm, settings.get("preset")) and settings.get("preset") in presets():
            del settings["preset"]
        settings = preset_settings(algorithm, settings.get("preset")) | settings
        protocol = settings.get("protocol", Protocol.END_OF_SEQUENCE)
        ranges = space.only(lambda name: name in fields_of(algorithm))
        searched = {*ranges} | {name for name in method.search_space if self.follow and name not in settings}
        idle = {name for other, names in PROTOCOL_OPTIONS.items() if other != protocol for name in names}
        if protocol == Protocol.CONTINUAL or not searched:
            idle |= {*SEARCH_OPTIONS}
        known = {*fields_of(algorithm), *Options.model_fields} - idle
        kept = {name: value for name, value in settings.items() if name in known}
        name = f"{settings['name']}-{label}"
        return make_plan(algorithm, ranges, self.question, kept | {"name": name}, None, self.follow)

    def main(self, args: list[str] | None = None) -> NoReturn:
        """Run the comparison as its script does, then exit the process with the largest exit code of its studies.

        Args:
            args: Words of the command line; `sys.argv[1:]` if None.
        """

        def run() -> int:
            words = sys.argv[1:] if args is None else args
            shown = [sys.argv[0], *redact_words(words, ADDRESSES)]
            settings, space, asked = self.parsed(args)
            if asked.print_config:
                hidden = {n: redact_address(v) for n, v in settings.items() if n in ADDRESSES and v is not None}
                print(dump_options(settings | hidden, space, search_fields(self.algorithm)), end="")
                return 0
            name, plans = settings["name"], self.plans_of(settings, space)
            if asked.dry_run:
                return self._tell(plans)
            results = self._carry_out(name, plans, [relative_path(Path(sys.executable)), *shown])
            return max((result.exit_code for result in results.values()), default=1)

        exit_with(run)

    def _tell(self, plans: dict[str, Plan]) -> int:
        """Print what each study would do, for --dry-run."""
        from clsearch.execution.dry_run import print_dry_run

        data: dict[Source, Data] = {}
        for label, plan in plans.items():
            print(f"study {label}")
            plan = started_from_known(plan)
            data[plan.config.source] = prepared(plan, data.get(plan.config.source))
            print_dry_run(plan, data[plan.config.source])
        return 0

    def planned(self, args: list[str] | None = None) -> tuple[str, dict[str, Plan]]:
        """Return the name of the comparison and its plans under a command line. Raises ConfigError."""
        settings, space, _ = self.parsed(args)
        return settings["name"], self.plans_of(settings, space)

    def parsed(self, args: list[str] | None = None) -> tuple[dict[str, Any], SearchSpace, Invocation]:
        """Return settings and space under a command line, and what to do with them. Raises ConfigError."""
        settled = set.intersection(*(set(own) for own in self.studies.values())) - {"algorithm"}
        shown = SearchSpace()
        for space in (SearchSpace.of(self.space), *(plan.space for plan in self.plans.values())):
            shown = SearchSpace.of([shown, space.only(partial(_not_in, shown))])
        settings, space, asked = parse(
            self.algorithm, self.question, self.settings, shown, args, self.follow, without={"final", *LIMITS, *settled}
        )
        acting = {
            Protocol(own.get("protocol", settings.get("protocol", "end_of_sequence"))) for own in self.studies.values()
        }
        for protocol, names in PROTOCOL_OPTIONS.items():
            for name in names:
                if protocol not in acting and settings.get(name) is not None:
                    text = f"{name}: acts with protocol = {protocol} only; got {settings[name]}, but no study with it"
                    raise ConfigError([Refusal("protocol-only", text)])
        return settings, space, asked

    def run(self) -> dict[str, StudyResult]:
        """Run all studies, or resume them.

        Returns:
            Label -> result of the study.

        Raises:
            ConfigError: If a study cannot run; before anything expensive starts.
        """
        with script_refusals():
            disable_telemetry()
            return self._carry_out(self.settings["name"], self.plans, None)

    def _carry_out(self, name: str, plans: dict[str, Plan], command: list[str] | None) -> dict[str, StudyResult]:
        """Check all plans, then run them one after the other. Raises ConfigError."""
        plans = {label: started_from_known(plan) for label, plan in plans.items()}
        first = next(iter(plans.values()))
        results = first.folder.parent
        from clsearch.records.resume import check_same, check_same_comparison

        if not first.options.fresh:
            named = {label: plan.options.name for label, plan in plans.items()}
            check_same_comparison(results / name, self.kind, named)
            for plan in plans.values():
                check_same(plan, name)
        held: dict[Source, Data] = {}
        for plan in plans.values():
            held[plan.config.source] = prepared(plan, held.get(plan.config.source))
        from clsearch.execution.run_comparison import execute_all

        described = {"question": self.question, "kind": self.kind, "command": command}
        return execute_all(results / name, described, plans, held)


add_settings(Comparison, SharedSettings)


def _not_in(names: Collection[str], name: str) -> bool:
    return name not in names


def looks_at_disk(settings: Mapping[str, Any]) -> bool:
    """Whether a study must list a folder or read a file before it can be planned."""
    named = (str(settings.get(name, "")) for name in ("benchmark", "report_benchmark"))
    return "grouping" in settings or any(name.startswith(FOLDER) for name in named)
