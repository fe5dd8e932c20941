"""Options in a YAML file: read under those of a command line, and written so that they can be read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from clsearch.common.errors import ConfigError, did_you_mean
from clsearch.common.formatting import relative_path
from clsearch.config.hyperparameters import Range, Space
from clsearch.config.trial import explain
from clsearch.methods.registry import searchable
from clsearch.planning.options import SelectionOptions, StudyOptions
from clsearch.planning.plan import Plan

EITHER = {"--epochs": "--iterations", "--iterations": "--epochs"}
"""Options of which one alone acts: the command line's, not the file's."""


def with_files(args: list[str], known: Mapping[str, FieldInfo]) -> list[str]:
    """A command line whose `--config FILE` have become the options that the files hold, before all others, which win.
    known: what may be in a file, by name. Raises ConfigError.
    """
    own, files = [], []
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--config":
            own.append(word)
        elif found := value if equals else next(words, ""):
            files.append(Path(found).expanduser())
        else:
            raise ConfigError(["config: must name a YAML file of options; got nothing"])
    given = {flag_of(word.partition("=")[0].lstrip("-")) for word in own if word.startswith("--")}
    read: dict[str, Any] = {}
    for file in files:
        read |= options_in(file, known)
    kept = {name: value for name, value in read.items() if EITHER.get(flag_of(name)) not in given}
    return [*(word for name, value in kept.items() for word in option(name, value)), *own]


def options_in(file: Path, known: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """What a file holds: name of an option -> value, a list for several. Raises ConfigError."""
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError([f"config: must be a YAML file of options; got {relative_path(file)}: {reason}"]) from None
    if not isinstance(found, dict):
        raise ConfigError(
            [f"config: must be a YAML file with a line `option: value` for each option; got {relative_path(file)}"]
        )
    named = {str(name).replace("-", "_"): value for name, value in found.items()}
    if unknown := [name for name in named if name not in known]:
        listed = ", ".join(sorted(known))
        raise ConfigError(
            [
                f"config: {name} in {relative_path(file)} is no option{did_you_mean(name, known)}; known are {listed}"
                for name in unknown
            ]
        )
    problems = [(name, value, problem_of(name, value, known[name])) for name, value in named.items()]
    if wrong := [
        f"config: {name} in {relative_path(file)} {rule}; got {value!r}" for name, value, rule in problems if rule
    ]:
        raise ConfigError(wrong)
    return named


def problem_of(name: str, value: Any, field: FieldInfo) -> str:
    """What rule a value of a file breaks by its kind; what else holds is checked with the command line."""
    if isinstance(value, dict):
        return "must be a value or a list of values"
    if value is None:
        return ""
    kind: Any = tuple[float, ...] if name in searchable() else field.annotation
    several, many = isinstance(value, list), "tuple" in str(kind)
    try:
        TypeAdapter(kind).validate_python([value] if many and not several else value)
    except ValidationError as error:
        if several and not many:
            return "must be one value"
        return explain(error)[0]
    return ""


def flag_of(name: str) -> str:
    """An option as a command line has it."""
    return "--" + name.replace("_", "-")


def option(name: str, value: Any) -> list[str]:
    """The words of an option with a value."""
    flag = flag_of(name)
    match value:
        case Range():
            return [flag, repr(value.low), repr(value.high)]
        case True | False if name != "train_head":  # which may be None, so it takes a value
            return [flag if value else flag.replace("--", "--no-", 1)]
        case tuple() | list():
            return [flag, *map(str, value)]
        case _:
            return [flag, str(value)]


def written(plan: Plan, script: dict[str, Any]) -> str:
    """A plan as such a file: every option that is set, the ranges that are searched as lists of two; what is not set as
    comments. script: settings of the script, of which one that is undone is null.
    """
    options = plan.options.model_dump(mode="json") | plan.config.flat()
    first = [name for part in (StudyOptions, SelectionOptions) for name in part.model_fields]
    named = {name: options[name] for name in (*first, *plan.config.flat(), *options)}
    kept = {n: v for n, v in named.items() if v is not None or script.get(n) is not None}
    unset = {n: "" for n in named if n not in kept and n not in plan.space}
    unset |= {"trials": str(plan.trials)} if "trials" in unset else {}
    lines = "".join(f"# {name}: {value}".rstrip() + "\n" for name, value in unset.items())
    return f"{dumped(kept, plan.space)}# Not set:\n{lines}"


def dumped(settings: dict[str, Any], space: Space) -> str:
    """Settings and ranges as such a file."""
    import yaml

    plain = {name: plainly(value) for name, value in settings.items()}
    ranges = {name: [values.low, values.high] for name, values in space.items()}
    return str(yaml.safe_dump(plain | ranges, sort_keys=False, allow_unicode=True))


def plainly(value: Any) -> Any:
    """A value as YAML has it."""
    if isinstance(value, tuple | list):
        return [plainly(one) for one in value]
    return value if value is None or type(value) in (bool, int, float, str) else str(value)
