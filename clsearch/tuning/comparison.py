"""A comparison: several studies that differ in the algorithm or the protocol, and one table of what they found."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from clsearch.core.config import PARTS, ConfigError, fields_of
from clsearch.core.datasets import Data
from clsearch.tuning.command_line import parse
from clsearch.tuning.options import Options, Protocol
from clsearch.tuning.plan import Plan, make_plan
from clsearch.tuning.protocols import DECAYING, OWN, SEARCHING
from clsearch.tuning.spaces import SPACES, Space
from clsearch.tuning.study import exit_with, prepared

if TYPE_CHECKING:
    from clsearch.tuning.result import StudyResult


class Comparison:
    """Studies that share settings, run one after the other on the same seeds, each ending in its final evaluation.

    studies: label -> what is a study's own: its algorithm, protocol, or any other setting. Each is kept in
    results/<name>-<label>/, the table in results/<name>/. algorithm: where a study names none; its options are the
    command line's. kind: `methods` or `protocols`, what the table shows. The rest as in `Study`.
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
        self.name, self.studies, self.algorithm, self.kind = name, studies, algorithm, kind
        self.question = question.strip()
        self.settings = {key: value for key, value in settings.items() if value is not None} | {"name": name}
        self.follow, self.space = space is None, space or {}
        _ = self.plans

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """The studies as the script has them. Raises ConfigError."""
        return self.plans_of(self.settings, self.space)

    def plans_of(self, settings: dict[str, Any], space: Space) -> dict[str, Plan]:
        """The studies under these settings. Raises ConfigError, naming the study."""
        known = {*Options.model_fields, *(name for own in PARTS for name in fields_of(own))}
        if unknown := [name for name in settings if name not in known]:
            raise ConfigError([f"{name}: unknown; known are {', '.join(sorted(known))}" for name in unknown])
        plans = {}
        for label, own in self.studies.items():
            try:
                plans[label] = self._plan(label, settings | dict(own), space)
            except ConfigError as error:
                raise ConfigError([f"{problem} (study {label})" for problem in error.problems]) from None
        return plans

    def _plan(self, label: str, settings: dict[str, Any], space: Space) -> Plan:
        """One study: of the shared settings, those that act in it."""
        algorithm = settings.pop("algorithm", self.algorithm)
        protocol = Protocol(settings.get("protocol", Protocol.END_OF_SEQUENCE))
        idle = {name for other, names in OWN.items() if other is not protocol for name in names}
        own = {name: values for name, values in space.items() if name in fields_of(algorithm)}
        if protocol is Protocol.CONTINUAL:
            own = {name: values for name, values in own.items() if name in DECAYING}
        searched = {*own} | {name for name in SPACES[algorithm] if self.follow and name not in settings}
        if protocol is Protocol.CONTINUAL or not searched:
            idle |= {*SEARCHING}
        known = {*fields_of(algorithm), *Options.model_fields} - idle
        kept = {name: value for name, value in settings.items() if name in known}
        return make_plan(
            algorithm, own, self.question, kept | {"name": f"{settings['name']}-{label}"}, None, self.follow
        )

    def main(self, args: list[str] | None = None) -> NoReturn:
        """Run the comparison as its script does: options from `args` (default: the command line), then exit.

        Exit codes as those of a study, the largest of them.
        """

        def run() -> int:
            results = self._carry_out(*self.planned(args))
            return max((result.exit_code for result in results.values()), default=1)

        exit_with(run)

    def planned(self, args: list[str] | None = None) -> tuple[str, dict[str, Plan]]:
        """The comparison's name and its studies, changed by a command line. Raises ConfigError."""
        fixed = {"final"}.union(*self.studies.values()) - {"algorithm"}
        shown = {name: values for plan in self.plans.values() for name, values in plan.space.items()} | self.space
        settings, space = parse(self.algorithm, self.question, self.settings, shown, args, self.follow, without=fixed)
        return settings["name"], self.plans_of(settings, space)

    def run(self) -> dict[str, StudyResult]:
        """Run all studies; gives their results by label. Raises ConfigError, before anything expensive starts."""
        return self._carry_out(self.name, self.plans)

    def _carry_out(self, name: str, plans: dict[str, Plan]) -> dict[str, StudyResult]:
        folder = next(iter(plans.values())).folder.parent / name
        if any((folder / file).exists() for file in ("comparison.json", "study.json")):
            raise ConfigError([f"name: what exists is never overwritten; {folder} does. Run it under another name"])
        held: dict[str, Data] = {}
        for plan in plans.values():
            held[plan.config.benchmark] = prepared(plan, held.get(plan.config.benchmark))
        from clsearch.tuning.comparing import execute_all

        return execute_all(folder, self.question, self.kind, plans, held)
