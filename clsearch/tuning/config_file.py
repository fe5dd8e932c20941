"""Options in a YAML file: read under those of a command line, and written so that they can be read again."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from clsearch.core.config import ConfigError
from clsearch.tuning.display import near
from clsearch.tuning.options import SelectionOptions, StudyOptions
from clsearch.tuning.plan import Plan
from clsearch.tuning.spaces import Range, Space

EITHER = {"--epochs": "--iterations", "--iterations": "--epochs"}
"""Options of which one alone acts: the command line's, not the file's."""


def with_files(args: list[str], known: Collection[str]) -> list[str]:
    """A command line whose `--config FILE` have become the options that the files hold, before all others, which win.
    known: names that may be in a file. Raises ConfigError.
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


def options_in(file: Path, known: Collection[str]) -> dict[str, Any]:
    """What a file holds: name of an option -> value, a list for several. Raises ConfigError."""
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError([f"config: must be a YAML file of options; got {near(file)}: {reason}"]) from None
    if not isinstance(found, dict):
        raise ConfigError(
            [f"config: must be a YAML file with a line `option: value` for each option; got {near(file)}"]
        )
    named = {str(name).replace("-", "_"): value for name, value in found.items()}
    if unknown := [name for name in named if name not in known]:
        listed = ", ".join(sorted(known))
        raise ConfigError([f"config: {name} in {near(file)} is no option; known are {listed}" for name in unknown])
    if nested := [name for name, value in named.items() if isinstance(value, dict)]:
        raise ConfigError([f"config: {name} must be a value or a list of values; got {named[name]}" for name in nested])
    return named


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
    """A plan as such a file: every option that is set, the ranges that are searched as lists of two. script: settings
    of the script, of which one that is undone is null.
    """
    options = plan.options.model_dump(mode="json") | plan.config.flat()
    first = [name for part in (StudyOptions, SelectionOptions) for name in part.model_fields]
    named = {name: options[name] for name in (*first, *plan.config.flat(), *options)}
    return dumped({n: v for n, v in named.items() if v is not None or script.get(n) is not None}, plan.space)


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
