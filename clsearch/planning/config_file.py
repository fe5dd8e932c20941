"""Options in a YAML file: read below those of a command line, and written so that they can be read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from clsearch.common.echo import echo
from clsearch.common.errors import ConfigError, Refusal, RuleError, did_you_mean
from clsearch.common.files import read_small_text
from clsearch.common.formatting import relative_path
from clsearch.common.redaction import redact_address
from clsearch.config.domains import Choice, IntRange, Range
from clsearch.config.sections import check_text, to_local_path
from clsearch.config.spaces import SearchSpace
from clsearch.config.trial import rule_of
from clsearch.planning.option_yaml import parse_options
from clsearch.planning.options import ADDRESSES, SelectionOptions, StudyOptions
from clsearch.planning.plan import Plan
from clsearch.planning.samplers import describe_choice
from clsearch.planning.search_fields import SearchField, read_value, search_fields, write_value, write_whens, write_word

MOST_BYTES = 100_000
"""Size of a file of options; it holds a few lines."""

WHEN = "when"
"""Option that holds the conditional parts of a search space."""

EITHER = {"--epochs": "--iterations", "--iterations": "--epochs"}
"""Option -> the option that excludes it: the command line's replaces the file's."""


def expand_config_files(
    args: list[str], known: Mapping[str, FieldInfo], searched: Mapping[str, SearchField]
) -> list[str]:
    """Replace each `--config FILE` by the options of the file, ahead of all others, so that the others win.

    Args:
        args: Words of a command line.
        known: Name of each option that a file can hold -> its field.
        searched: The fields that can be searched.

    Raises:
        ConfigError: For a file that cannot be read or holds a wrong option.
    """
    own, files = [], []
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--config":
            own.append(word)
        elif file_name := value if equals else next(words, ""):
            files.append(_config_path(file_name))
        else:
            raise ConfigError([Refusal("config-named", "config: must name a YAML file of options; got nothing")])
    given = {to_flag(word.partition("=")[0].lstrip("-")) for word in own if word.startswith("--")}
    read: dict[str, Any] = {}
    for file in files:
        read |= read_options(file, known, searched)
    kept = {name: value for name, value in read.items() if EITHER.get(to_flag(name)) not in given}
    return [*(word for name, value in kept.items() for word in to_words(name, value)), *own]


def _config_path(name: str) -> Path:
    """Return the path of a file of options. Raises ConfigError."""
    try:
        check_text(name)
        return to_local_path(Path(name))
    except RuleError as error:
        raise ConfigError([Refusal(error.rule, f"config: {error}; got {echo(name)}")]) from None


def read_yaml(option: str, file: Path, what: str) -> Any:
    """Read a YAML file that an option names. Raises ConfigError."""
    try:
        return parse_options(read_small_text(file, MOST_BYTES))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        text = f"{option}: must be a YAML file of {what}; got {relative_path(file)}: {reason}"
        raise ConfigError([Refusal("config-yaml" if option == "config" else "space-yaml", text)]) from None


def read_options(file: Path, known: Mapping[str, FieldInfo], searched: Mapping[str, SearchField]) -> dict[str, Any]:
    """Read a file: name of an option -> value, a list for several values. Raises ConfigError."""
    content = read_yaml("config", file, "options")
    if not isinstance(content, dict):
        text = f"config: must be a YAML file with a line `option: value` for each option; got {relative_path(file)}"
        raise ConfigError([Refusal("config-options", text)])
    options = {str(name).replace("-", "_"): value for name, value in content.items()}
    where = f"in {relative_path(file)}"
    if unknown := [name for name in options if name not in (*known, WHEN)]:
        listed = ", ".join(sorted(known))
        raise ConfigError(
            Refusal(
                "option-known", f"config: {name} {where} is no option{did_you_mean(name, known)}; known are {listed}"
            )
            for name in unknown
        )
    problems = {
        name: find_type_problem(value, known[name], searched.get(name))
        for name, value in options.items()
        if name != WHEN
    }
    if wrong := {name: problem for name, problem in problems.items() if problem is not None}:
        raise ConfigError(
            Refusal(rule, f"config: {name} {where} {words}; got {echo(options[name])}")
            for name, (rule, words) in wrong.items()
        )
    return options


def find_type_problem(value: Any, field: FieldInfo, searched: SearchField | None) -> tuple[str, str] | None:
    """Find the rule of its type that a value in a file breaks: id and words. Other rules are checked later."""
    if searched is not None and isinstance(value, dict | list):
        try:
            value = read_value(searched, value)
        except ConfigError as error:
            (problem,) = error.problems
            return problem.rule, problem.partition(": ")[2].partition("; got ")[0]
        if isinstance(value, Range | IntRange | Choice):
            return None
    if isinstance(value, dict) and not isinstance(field.default, dict):
        return "config-values", "must be a value or a list of values"
    if value is None:
        return None
    kind: Any = field.annotation
    several, many = isinstance(value, list), "tuple" in str(kind)
    one_of_many = many and not isinstance(value, list | tuple)
    try:
        TypeAdapter(kind).validate_python([value] if one_of_many else value)
    except ValidationError as error:
        if several and not many:
            return "config-one-value", "must be one value"
        return rule_of(error.errors()[0])
    return None


def to_flag(name: str) -> str:
    """Write the name of an option as on a command line."""
    return "--" + name.replace("_", "-")


def to_words(name: str, value: Any) -> list[str]:
    """Write an option and its value as words of a command line."""
    flag = to_flag(name)
    match value:
        case True | False if name != "train_head":  # it can be None, so it takes a value
            return [flag if value else flag.replace("--", "--no-", 1)]
        case dict() if name == "constraints":
            return [flag, *(str(word) for pair in value.items() for word in pair)]
        case dict():
            return [flag, json.dumps(value)]
        case tuple() | list():
            nested = name == WHEN or any(isinstance(one, list | dict) for one in value)
            return [flag, *(write_nested(one) if nested else str(one) for one in value)]
        case _:
            return [flag, str(value)]


def write_nested(value: Any) -> str:
    """Write a list, a part of a search space or a configuration as one word."""
    return json.dumps(to_plain(value)) if isinstance(value, dict) else write_word(value)


def format_plan(plan: Plan, script: dict[str, Any]) -> str:
    """Write a plan as a YAML file.

    Options that are set come first, a searched range as a list of two; options that are not set follow as comments.
    Addresses have no secrets.

    Args:
        plan: The plan.
        script: Settings of the script; one that the command line undid is written as null.
    """
    both = {"sampler": plan.options.sampler, "pruner": plan.options.pruner}
    made = {name: value for name, value in both.items() if not isinstance(value, str)}  # objects
    options = plan.options.model_dump(mode="json", exclude={*made}) | plan.config.flat()
    options |= {name: redact_address(options[name]) for name in ADDRESSES if options[name] is not None}
    first = [name for part in (StudyOptions, SelectionOptions) for name in part.model_fields if name not in made]
    named = {name: options[name] for name in (*first, *plan.config.flat(), *options)}
    named |= dict.fromkeys(plan.space) | plan.fallbacks
    kept = {n: v for n, v in named.items() if v is not None or script.get(n) is not None}
    unset = {n: "" for n in named if n not in kept and n not in plan.space}
    fields = search_fields(plan.algorithm)
    unset |= {"trials": str(plan.trials)} if "trials" in unset else {}
    unset |= {name: f"{describe_choice(value)}, which the script makes" for name, value in made.items()}
    lines = "".join(f"# {name}: {value}".rstrip() + "\n" for name, value in unset.items())
    return f"{dump_options(kept, plan.space, fields)}# Not set:\n{lines}"


def dump_options(settings: dict[str, Any], space: SearchSpace, fields: Mapping[str, SearchField]) -> str:
    """Write settings and a search space as YAML."""
    import yaml

    searched = {part.name: write_value(fields[part.name], part.domain) for part in space.parts if not part.conditions}
    plain = {name: to_plain(value) for name, value in settings.items() if name not in space.always} | searched
    whens = write_whens(fields, space)
    return str(yaml.safe_dump(plain | ({WHEN: whens} if whens else {}), sort_keys=False, allow_unicode=True))


def to_plain(value: Any) -> Any:
    """Turn a value into one that YAML has."""
    if isinstance(value, tuple | list):
        return [to_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: to_plain(one) for name, one in value.items()}
    return value if value is None or type(value) in (bool, int, float, str) else str(value)
