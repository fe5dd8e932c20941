"""Configurations that a study tries first: read from Python, a YAML or a CSV file, and checked against its space."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from clsearch.common.echo import echo
from clsearch.common.errors import ConfigError, Refusal, RuleError, did_you_mean
from clsearch.common.files import read_small_text
from clsearch.common.formatting import relative_path
from clsearch.config.plain_values import Plain, Values, show_value, to_plain
from clsearch.config.sections import to_local_path
from clsearch.config.space_parts import show_conditions
from clsearch.config.spaces import SearchSpace
from clsearch.config.trial import TrialConfig
from clsearch.planning.option_yaml import parse_options
from clsearch.planning.options import Options
from clsearch.planning.search_fields import SearchField, ValueKind, read_flow, read_word
from clsearch.planning.spaces import pick_with

ENQUEUED = "enqueued"
"""Origin of a trial that the user asked for."""

MOST_BYTES = 1_000_000
"""Size of a file of configurations."""


@dataclass(frozen=True)
class Enqueued:
    """A configuration that is tried first.

    Attributes:
        values: Plain values of some searched hyperparameters; the sampler fills in the others.
        origin: Why it is tried: `enqueued`, or the study and trial that it comes from.
    """

    values: Values
    origin: str = ENQUEUED

    def as_json(self) -> dict[str, Any]:
        """Return its form in study.json."""
        return {"values": dict(self.values), "origin": self.origin}


@dataclass(frozen=True)
class WarmStart:
    """The study that a study was started from.

    Attributes:
        study: Its name.
        id: Its id.
        top: Number of its trials that were asked for.
    """

    study: str
    id: str
    top: int


def read_enqueued(
    options: Options,
    fields: Mapping[str, SearchField],
    space: SearchSpace,
    config: TrialConfig,
    configure: Callable[[Values], object],
) -> tuple[Enqueued, ...]:
    """Read and check the configurations of `--enqueue`.

    Args:
        options: Options of the study.
        fields: The fields that its algorithm can search.
        space: What it searches.
        config: A complete configuration, for the settings that are not searched.
        configure: Makes the configuration of a trial; raises ConfigError for values that do not go together.

    Raises:
        ConfigError: With one line per problem.
    """
    if options.enqueue is None:
        return ()
    written = [one for item in options.enqueue for one in read_item(item)]
    if not written:
        text = "enqueue: must have at least one configuration; got none"
        raise ConfigError([Refusal("enqueue-some", text)])
    found, problems = dict[str, Enqueued](), list[Refusal]()
    for number, one in enumerate(written, start=1):
        where = f"in configuration {number}" if len(written) > 1 else "in the configuration"
        try:
            values = check_values(one, fields, space, config, configure, where)
        except ConfigError as error:
            problems += error.problems
            continue
        key = repr(sorted(values.items()))
        if key in found:
            shown = ", ".join(f"{name} = {show_value(value)}" for name, value in values.items())
            problems.append(Refusal("enqueue-once", f"enqueue: must have each configuration once; got {shown} twice"))
        found[key] = Enqueued(values)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return tuple(found.values())


def check_number(options: Options, enqueued: Sequence[Enqueued], trials: int) -> None:
    """Refuse more configurations than trials, and any in a grid. Raises ConfigError."""
    name = "enqueue" if options.enqueue is not None else "warm_start"
    wanted = options.enqueue is not None or options.warm_start is not None
    if wanted and options.sampler == "grid":
        text = f"{name}: a grid has its own points, each once, so nothing can be tried before them; got both"
        raise ConfigError([Refusal("enqueue-not-in-grid", text)])
    if wanted and len(enqueued) > trials:
        text = f"{name}: must have at most as many configurations as the study has trials, {trials}"
        raise ConfigError([Refusal("enqueue-within-trials", f"{text}; got {len(enqueued)}")])


def read_item(item: str | dict[str, Any]) -> list[Mapping[str, Any]]:
    """Read one configuration, or those of a file. Raises ConfigError."""
    if isinstance(item, dict):
        return [item]
    if item.lstrip().startswith("{"):
        return list_mappings(read_flow("enqueue", item), item)
    try:
        path = to_local_path(Path(item))
    except RuleError as error:
        raise ConfigError([Refusal(error.rule, f"enqueue: {error}; got {echo(item)}")]) from None
    shown = relative_path(path)
    try:
        text = read_small_text(path, MOST_BYTES)
        if path.suffix.lower() == ".csv":
            return list(read_csv(text))
        content = parse_options(text)
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        rule = "must be a YAML or CSV file of configurations"
        raise ConfigError([Refusal("enqueue-file", f"enqueue: {rule}; got {shown}: {reason}")]) from None
    return list_mappings([] if content is None else content, shown)


def list_mappings(content: Any, shown: str) -> list[Mapping[str, Any]]:
    """List the configurations of YAML: a list of mappings, or one mapping. Raises ConfigError."""
    listed = [content] if isinstance(content, Mapping) else content
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        rule = "must be a list of mappings `hyperparameter: value`, or one mapping"
        raise ConfigError([Refusal("enqueue-form", f"enqueue: {rule}; got {echo(content)} of {shown}")])
    return [{str(name).replace("-", "_"): value for name, value in one.items()} for one in listed]


def read_csv(text: str) -> Iterator[Mapping[str, Any]]:
    """Read a table: a heading with hyperparameters, then a row for each configuration; empty cells are left open.

    Raises:
        ValueError: For a heading that names a column twice, or a row of another length.
    """
    rows = [row for row in csv.reader(StringIO(text)) if row]
    names = [name.strip().replace("-", "_") for name in rows[0]] if rows else []
    if len({*names}) < len(names):
        raise ValueError("its heading names a column twice")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(names):
            raise ValueError(f"row {number} has {len(row)} cells, its heading {len(names)}")
        yield {name: cell.strip() for name, cell in zip(names, row, strict=True) if cell.strip()}


def check_values(
    written: Mapping[str, Any],
    fields: Mapping[str, SearchField],
    space: SearchSpace,
    config: TrialConfig,
    configure: Callable[[Values], object],
    where: str,
) -> dict[str, Plain]:
    """Check one configuration; return its plain values of searched hyperparameters. `where` ends a refusal.

    Raises:
        ConfigError: With one line per problem.
    """
    given = {name: read_written(fields.get(name), value) for name, value in written.items()}
    problems = [
        *(problem for name, value in given.items() if (problem := fixed_problem(name, value, space, config, where)))
    ]
    values: dict[str, Plain] = {}
    for part in space.parts:  # each follows those that its conditions name
        if part.name not in given or part.name in values or not part.applies(values):
            continue
        value = values[part.name] = part.domain.plain(given[part.name])
        if not part.domain.contains(value):
            text = f"enqueue: {part.name} must lie in what is searched, {part.domain}; got {echo(value)} {where}"
            problems.append(Refusal("enqueue-in-space", text))
    for name in given:
        if name in space and name not in values:
            parts = " or ".join(show_conditions(part).removeprefix(", ") for part in space.parts if part.name == name)
            text = f"enqueue: {name} acts only {parts}, which the configuration must say, too; got it without {where}"
            problems.append(Refusal("enqueue-applies", text))
    if not problems and not values:
        text = f"enqueue: must have a value of what is searched, {', '.join(space) or 'nothing here'}; got none {where}"
        problems.append(Refusal("enqueue-values", text))
    if problems:
        raise ConfigError(problems)
    keys = {part.key: values[part.name] for part in space.active_parts(values) if part.name in values}
    try:
        configure(pick_with(space, keys))
    except ConfigError as error:
        raise ConfigError(Refusal(one.rule, f"{one} ({where} of --enqueue)") for one in error.problems) from None
    return values


def read_written(field: SearchField | None, value: Any) -> Any:
    """Read a value: a number or a name can be text, as in a table."""
    several = field is not None and field.kind is ValueKind.SEVERAL
    return read_word(field, value) if field is not None and isinstance(value, str) and not several else value


def fixed_problem(name: str, value: Any, space: SearchSpace, config: TrialConfig, where: str) -> Refusal | None:
    """Refuse a name that is not searched, unless its value is the one that all trials have."""
    if name in space:
        return None
    if name not in config.acting_fields():
        rule = f"{name} is not searched{did_you_mean(name, space)}; searched are {', '.join(space) or 'none'}"
        return Refusal("enqueue-searched", f"enqueue: {rule}; got it {where}")
    plain = to_plain(getattr(config, name))
    if to_plain(value) == plain or str(to_plain(value)) == str(plain):
        return None
    text = f"enqueue: {name} is not searched, so it must be {show_value(plain)}; got {echo(value)} {where}"
    return Refusal("enqueue-searched", text)
