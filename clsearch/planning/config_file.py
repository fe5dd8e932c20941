"""Options in a YAML file: read below those of a command line, and written so that they can be read again."""

from __future__ import annotations

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
from clsearch.config.hyperparameters import Range, Space
from clsearch.config.sections import check_text, to_local_path
from clsearch.config.trial import rule_of
from clsearch.methods.registry import searchable
from clsearch.planning.options import ADDRESSES, SelectionOptions, StudyOptions
from clsearch.planning.plan import Plan

MOST_BYTES = 100_000
"""Size of a file of options; it holds a few lines."""

MOST_DEPTH = 4
"""Levels of a file of options; two are in use."""

EITHER = {"--epochs": "--iterations", "--iterations": "--epochs"}
"""Option -> the option that excludes it: the command line's replaces the file's."""


def expand_config_files(args: list[str], known: Mapping[str, FieldInfo]) -> list[str]:
    """Replace each `--config FILE` by the options of the file, ahead of all others, so that the others win.

    Args:
        args: Words of a command line.
        known: Name of each option that a file can hold -> its field.

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
        read |= read_options(file, known)
    kept = {name: value for name, value in read.items() if EITHER.get(to_flag(name)) not in given}
    return [*(word for name, value in kept.items() for word in to_words(name, value)), *own]


def _config_path(name: str) -> Path:
    """Return the path of a file of options. Raises ConfigError."""
    try:
        check_text(name)
        return to_local_path(Path(name))
    except RuleError as error:
        raise ConfigError([Refusal(error.rule, f"config: {error}; got {echo(name)}")]) from None


def read_options(file: Path, known: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """Read a file: name of an option -> value, a list for several values. Raises ConfigError."""
    try:
        content = parse_options(read_small_text(file, MOST_BYTES))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        text = f"config: must be a YAML file of options; got {relative_path(file)}: {reason}"
        raise ConfigError([Refusal("config-yaml", text)]) from None
    if not isinstance(content, dict):
        text = f"config: must be a YAML file with a line `option: value` for each option; got {relative_path(file)}"
        raise ConfigError([Refusal("config-options", text)])
    options = {str(name).replace("-", "_"): value for name, value in content.items()}
    where = f"in {relative_path(file)}"
    if unknown := [name for name in options if name not in known]:
        listed = ", ".join(sorted(known))
        raise ConfigError(
            Refusal(
                "option-known", f"config: {name} {where} is no option{did_you_mean(name, known)}; known are {listed}"
            )
            for name in unknown
        )
    problems = {name: find_type_problem(name, value, known[name]) for name, value in options.items()}
    if wrong := {name: problem for name, problem in problems.items() if problem is not None}:
        raise ConfigError(
            Refusal(rule, f"config: {name} {where} {words}; got {echo(options[name])}")
            for name, (rule, words) in wrong.items()
        )
    return options


def parse_options(text: str) -> Any:
    """Parse YAML of options.

    Raises:
        ValueError: For a text that is not YAML, nests deeper than options do, or repeats a part by an alias, with which
            a short text can stand for an endless one. The message repeats no line, which can hold a password.
    """
    import yaml

    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):  # step by step, while loading would recurse
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH or isinstance(event, yaml.AliasEvent):
                what = "aliases" if isinstance(event, yaml.AliasEvent) else f"more than {MOST_DEPTH} levels"
                raise ValueError(f"has {what}")
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise ValueError(f"{error.problem or 'not YAML'}{where}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{getattr(error, 'reason', 'not YAML')}") from None


def find_type_problem(name: str, value: Any, field: FieldInfo) -> tuple[str, str] | None:
    """Find the rule of its type that a value in a file breaks: id and words. Other rules are checked later."""
    if isinstance(value, dict):
        return "config-values", "must be a value or a list of values"
    if value is None:
        return None
    kind: Any = tuple[float, ...] if name in searchable() else field.annotation
    several, many = isinstance(value, list), "tuple" in str(kind)
    try:
        TypeAdapter(kind).validate_python([value] if many and not several else value)
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
        case Range():
            return [flag, repr(value.low), repr(value.high)]
        case True | False if name != "train_head":  # it can be None, so it takes a value
            return [flag if value else flag.replace("--", "--no-", 1)]
        case tuple() | list():
            return [flag, *map(str, value)]
        case _:
            return [flag, str(value)]


def format_plan(plan: Plan, script: dict[str, Any]) -> str:
    """Write a plan as a YAML file.

    Options that are set come first, a searched range as a list of two; options that are not set follow as comments.
    Addresses have no secrets.

    Args:
        plan: The plan.
        script: Settings of the script; one that the command line undid is written as null.
    """
    options = plan.options.model_dump(mode="json") | plan.config.flat()
    options |= {name: redact_address(options[name]) for name in ADDRESSES if options[name] is not None}
    first = [name for part in (StudyOptions, SelectionOptions) for name in part.model_fields]
    named = {name: options[name] for name in (*first, *plan.config.flat(), *options)}
    kept = {n: v for n, v in named.items() if v is not None or script.get(n) is not None}
    unset = {n: "" for n in named if n not in kept and n not in plan.space}
    unset |= {"trials": str(plan.trials)} if "trials" in unset else {}
    lines = "".join(f"# {name}: {value}".rstrip() + "\n" for name, value in unset.items())
    return f"{dump_options(kept, plan.space)}# Not set:\n{lines}"


def dump_options(settings: dict[str, Any], space: Space) -> str:
    """Write settings and ranges as YAML."""
    import yaml

    plain = {name: to_plain(value) for name, value in settings.items()}
    ranges = {name: [values.low, values.high] for name, values in space.items()}
    return str(yaml.safe_dump(plain | ranges, sort_keys=False, allow_unicode=True))


def to_plain(value: Any) -> Any:
    """Turn a value into one that YAML has."""
    if isinstance(value, tuple | list):
        return [to_plain(one) for one in value]
    return value if value is None or type(value) in (bool, int, float, str) else str(value)
