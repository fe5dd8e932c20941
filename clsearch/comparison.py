"""A comparison: several studies that differ in the algorithm or the protocol, and one table of what they found."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from clsearch.common.errors import ConfigError, did_you_mean
from clsearch.common.formatting import relative_path, without_password
from clsearch.config.hyperparameters import Space
from clsearch.config.sections import FOLDER
from clsearch.data.datasets import Data, Source
from clsearch.methods.registry import fields_of, method_named, methods, preset_settings, presets
from clsearch.planning.command_line import Invocation, parse
from clsearch.planning.config_file import dumped
from clsearch.planning.options import Options, Protocol
from clsearch.planning.plan import Plan, make_plan
from clsearch.planning.protocols import PROTOCOL_OPTIONS, SEARCHING
from clsearch.study import exit_with, prepared

if TYPE_CHECKING:
    from clsearch.reporting.result import StudyResult


KINDS = ("methods", "protocols")


class Comparison:
    """Studies that share settings, run one after the other, each ending in its final evaluation.

    studies: label -> what is a study's own: its algorithm, protocol, or any other setting. Each is kept in
    results/<name>-<label>/, the table in results/<name>/. algorithm: where a study names none; its options are the
    command line's. What a study fixes is not searched in it, even where the others search it. kind:
    `methods` or `protocols`, what the table shows. The rest as in `Study`.
    Raises ConfigError where a setting is unknown or against its rule.
    """

    def __init__(
        self,
        *,
        name: str,
        studies: Mapping[str, Mapping[str, Any]],
        algorithm: str,
        kind: str,
        space: Space | None = None,
        question: str = "",
        **settings: Any,
    ) -> None:
        if kind not in KINDS or not studies:
            raise ConfigError([f"kind: must be one of {', '.join(KINDS)}, of at least one study; got {kind!r}"])
        self.studies, self.algorithm, self.kind = studies, algorithm, kind
        self.question = question.strip()
        given: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in settings.items() if v is not None
        }
        self.settings: dict[str, Any] = (
            given | {"name": name} | ({"results": Path(given["results"])} if "results" in given else {})
        )
        self.follow, self.space = space is None, space or {}
        if not any(looks_at_disk(given | dict(own)) for own in studies.values()):
            _ = self.plans

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """The studies as the script has them. Raises ConfigError."""
        return self.plans_of(self.settings, self.space)

    def plans_of(self, settings: dict[str, Any], space: Space) -> dict[str, Plan]:
        """The studies under these settings. Raises ConfigError, naming the study."""
        known = {"algorithm", *Options.model_fields, *(name for own in methods().values() for name in own.fields)}
        every = {*settings}.union(*self.studies.values())
        if unknown := sorted(every - known):
            raise ConfigError(
                [
                    f"{name}: unknown{did_you_mean(name, known)}; known are {', '.join(sorted(known))}"
                    for name in unknown
                ]
            )
        plans = {}
        for label, own in self.studies.items():
            try:
                shared = {name: values for name, values in space.items() if name not in own}
                plans[label] = self._plan(label, settings | dict(own), shared)
            except ConfigError as error:
                raise ConfigError([f"{problem} (study {label})" for problem in error.problems]) from None
        budgets = {plan.trials for plan in plans.values() if plan.space and plan.protocol is not Protocol.CONTINUAL}
        if len(budgets) > 1:
            shown = " ".join(map(str, sorted(budgets)))
            raise ConfigError([f"sampler: studies that are compared must have the same budget; got {shown} trials"])
        return plans

    def _plan(self, label: str, settings: dict[str, Any], space: Space) -> Plan:
        """One study: of the shared settings, those that act in it."""
        algorithm = settings.pop("algorithm", self.algorithm)
        method = method_named(algorithm)
        if not preset_settings(algorithm, settings.get("preset")) and settings.get("preset") in presets():
            del settings["preset"]
        settings = preset_settings(algorithm, settings.get("preset")) | settings
        protocol = settings.get("protocol", Protocol.END_OF_SEQUENCE)
        own = {name: values for name, values in space.items() if name in fields_of(algorithm)}
        searched = {*own} | {name for name in method.search_space if self.follow and name not in settings}
        idle = {name for other, names in PROTOCOL_OPTIONS.items() if other != protocol for name in names}
        if protocol == Protocol.CONTINUAL or not searched:
            idle |= {*SEARCHING}
        known = {*fields_of(algorithm), *Options.model_fields} - idle
        kept = {name: value for name, value in settings.items() if name in known}
        name = f"{settings['name']}-{label}"
        return make_plan(algorithm, own, self.question, kept | {"name": name}, None, self.follow)

    def main(self, args: list[str] | None = None) -> NoReturn:
        """Run the comparison as its script does: options from `args` (default: the command line), then exit.

        Exit codes as those of a study, the largest of them.
        """

        def run() -> int:
            words = [sys.argv[0], *(sys.argv[1:] if args is None else args)]
            shown = [without_password(word) if "://" in word else word for word in words]
            settings, space, asked = self.parsed(args)
            if asked.print_config:
                print(dumped(settings, space), end="")
                return 0
            name, plans = settings["name"], self.plans_of(settings, space)
            if asked.dry_run:
                return self._tell(plans)
            results = self._carry_out(name, plans, [relative_path(Path(sys.executable)), *shown])
            return max((result.exit_code for result in results.values()), default=1)

        exit_with(run)

    def _tell(self, plans: dict[str, Plan]) -> int:
        """Print what each study would do."""
        from clsearch.execution.dry_run import print_dry_run

        data: dict[Source, Data] = {}
        for label, plan in plans.items():
            print(f"study {label}")
            data[plan.config.source] = prepared(plan, data.get(plan.config.source))
            print_dry_run(plan, data[plan.config.source])
        return 0

    def planned(self, args: list[str] | None = None) -> tuple[str, dict[str, Plan]]:
        """The comparison's name and its studies, changed by a command line. Raises ConfigError."""
        settings, space, _ = self.parsed(args)
        return settings["name"], self.plans_of(settings, space)

    def parsed(self, args: list[str] | None = None) -> tuple[dict[str, Any], Space, Invocation]:
        """Settings and space of all studies, changed by a command line, and what that asks for. Raises ConfigError."""
        settled = set.intersection(*(set(own) for own in self.studies.values())) - {"algorithm"}
        shown = {name: values for plan in self.plans.values() for name, values in plan.space.items()} | self.space
        settings, space, asked = parse(
            self.algorithm, self.question, self.settings, shown, args, self.follow, without={"final", *settled}
        )
        acting = {
            Protocol(own.get("protocol", settings.get("protocol", "end_of_sequence"))) for own in self.studies.values()
        }
        for protocol, names in PROTOCOL_OPTIONS.items():
            for name in names:
                if protocol not in acting and settings.get(name) is not None:
                    got = settings[name]
                    raise ConfigError([f"{name}: acts with protocol = {protocol} only; got {got}, and no study of it"])
        return settings, space, asked

    def run(self) -> dict[str, StudyResult]:
        """Run all studies; gives their results by label. Raises ConfigError, before anything expensive starts."""
        return self._carry_out(self.settings["name"], self.plans, None)

    def _carry_out(self, name: str, plans: dict[str, Plan], command: list[str] | None) -> dict[str, StudyResult]:
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


def looks_at_disk(settings: Mapping[str, Any]) -> bool:
    """Whether a study must list a folder or read a file before it can be planned."""
    named = (str(settings.get(name, "")) for name in ("benchmark", "report_benchmark"))
    return "grouping" in settings or any(name.startswith(FOLDER) for name in named)
