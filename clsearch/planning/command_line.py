"""The command line of a study, generated from its options and from the trial's configuration."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Union, get_origin

from pydantic.fields import FieldInfo

from clsearch.common.errors import ConfigError
from clsearch.config.hyperparameters import Range, Space
from clsearch.config.sections import BACKBONES, BENCHMARKS, FOLDER, Section, backbone_name
from clsearch.methods.registry import known_fields, method_named, preset_settings, searchable
from clsearch.planning.config_file import flag_of, with_files
from clsearch.planning.options import Options, Protocol, ResourceOptions, SelectionOptions, StudyOptions
from clsearch.planning.protocols import PROTOCOL_OPTIONS, SEARCHING

EVERY_BENCHMARK = (*BENCHMARKS, f"{FOLDER}PATH")
NAMES = {"benchmark": EVERY_BENCHMARK, "report_benchmark": EVERY_BENCHMARK, "backbone": BACKBONES}
"""Options whose values are names of an open list."""

TIED = {
    "backbone": ("hidden",),
    "grouping": ("tasks",),
    "classes_per_task": ("tasks",),
    "schedule": ("milestones", "decay"),
    "protocol": tuple(name for names in PROTOCOL_OPTIONS.values() for name in names),
}
"""Option -> settings that a script made for its own value of it, and that go where the command line gives another."""


@dataclasses.dataclass(frozen=True)
class Invocation:
    """What is done with the options below.

    Attributes:
        config: YAML file of options, a line `option: value` for each, a list for several values; options beside it win.
        print_config: Print all options as such a file, and do nothing.
        dry_run: Print what would be trained, about how long that takes, by a short probe, and where it would go.
    """

    config: Path | None = None
    print_config: bool = False
    dry_run: bool = False


def untied(settings: dict[str, Any], script: dict[str, Any]) -> list[str]:
    """The settings that were made for a script's value of another one, which is another in `settings`."""
    known = known_fields() | Options.model_fields
    defaults = {name: known[name].default for name in TIED}
    changed = [n for n in TIED if n in settings and settings[n] != script.get(n, defaults[n])]
    return [own for name in changed for own in TIED[name]]


def parse(
    algorithm: str,
    question: str,
    settings: dict[str, Any],
    space: Space,
    args: list[str] | None,
    follow: bool = False,
    without: Collection[str] = (),
) -> tuple[dict[str, Any], Space, Invocation]:
    """Read a command line: settings and space of a script, changed by what the user gave, and what is to be done.

    A searchable number takes one value, which fixes it, or two, the range to search. follow: the script's space is the
    default one, so ranges that the user did not give are left out, to follow the settings. without: names of settings
    that are not asked for. Help and unknown options
    end the process (exit codes 0 and 2); values against a rule raise ConfigError.
    """
    import tyro

    own = method_named(algorithm).sections
    sections: tuple[type[Section], ...] = (StudyOptions, SelectionOptions, *own, ResourceOptions)
    groups = [_group(part, settings, space, without) for part in sections]
    names = {field.name for group in groups for field in dataclasses.fields(group)}
    known = {name: field for part in sections for name, field in part.model_fields.items() if name in names}
    args = with_files(sys.argv[1:] if args is None else args, known)
    form = dataclasses.make_dataclass(
        "Options", [(g.__name__, g, dataclasses.field(default_factory=g)) for g in (Invocation, *groups)]
    )
    given: Any = tyro.cli(
        form,
        args=args,
        description=question,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.EnumChoicesFromValues),
    )
    asked = given.Invocation
    values = {n: v for group in vars(given).values() if group is not asked for n, v in vars(group).items()}
    # Underscores are taken for hyphens, as tyro does.
    flags = {word.partition("=")[0].replace("_", "-") for word in args}
    new_settings, new_space = _merge(values, space, flags)
    if new_settings["backbone"] == backbone_name(settings.get("backbone", "")):  # a function has no other text
        new_settings["backbone"] = settings["backbone"]
    gone = [name for name in untied(new_settings, settings) if flag_of(name) not in flags]
    new_settings = {name: value for name, value in new_settings.items() if name not in gone}
    if "--preset" in flags:
        new_settings = _with_preset(algorithm, new_settings, settings, flags)
    if follow:
        new_space = {name: values for name, values in new_space.items() if flag_of(name) in flags}
        # A value that neither the script nor the user gave may come to be searched, when another option changes.
        unnamed = [name for name in searchable() if name not in settings and flag_of(name) not in flags]
        new_settings = {name: value for name, value in new_settings.items() if name not in unnamed}
    return new_settings, new_space, asked


def _with_preset(algorithm: str, given: dict[str, Any], script: dict[str, Any], flags: set[str]) -> dict[str, Any]:
    """Settings under the preset of a command line in place of the script's; options given beside it stay."""
    old, new = (preset_settings(algorithm, settings.get("preset")) for settings in (script, given))
    own = {name for name in {*old, *new} if {flag_of(name), flag_of(f"no_{name}")} & flags}
    undone = {name for name, value in old.items() if name not in own and script.get(name) == value}
    kept = {name: value for name, value in given.items() if name not in undone}
    return kept | {name: value for name, value in new.items() if name not in own}


def _merge(values: dict[str, Any], space: Space, flags: set[str]) -> tuple[dict[str, Any], Space]:
    known = searchable()
    new_settings, new_space = {}, {}
    for name, value in values.items():
        if name not in known:
            new_settings[name] = value
        elif len(value) == 1:
            new_settings[name] = value[0]
        elif len(value) == 2:
            new_space[name] = Range(value[0], value[1], log=space[name].log if name in space else known[name].range.log)
        else:
            raise ConfigError([f"{name}: takes one value or a range of two; got {' '.join(map(str, value))}"])
    # A script sets one of the two; the user who gives the other means it instead, and both are refused later.
    for given, other in (("epochs", "iterations"), ("iterations", "epochs")):
        if f"--{given}" in flags and f"--{other}" not in flags:
            new_settings[other] = None
    # The script's number of trials was for its own space and sampler.
    if "--trials" not in flags and (not new_space or "--sampler" in flags):
        new_settings["trials"] = None
    if new_settings.get("protocol") is Protocol.CONTINUAL:  # where no sampler chooses
        new_settings = {k: v for k, v in new_settings.items() if k not in SEARCHING or flag_of(k) in flags}
    # An explicit None is kept: it undoes what a script sets.
    return {name: v for name, v in new_settings.items() if v is not None or flag_of(name) in flags}, new_space


def _group(part: type[Section], settings: dict[str, Any], space: Space, without: Collection[str]) -> type:
    """A dataclass of one group of options for tyro, whose defaults are the script's."""
    known = searchable()
    rows = []
    for name, field in part.model_fields.items():
        if name in without:
            continue
        default = settings.get(name, field.default)
        if name in known:
            default = (space[name].low, space[name].high) if name in space else (default,)
            kind: Any = Annotated[tuple[float, ...], _argument(field, "FLOAT [FLOAT]")]
        elif name in NAMES:
            # Kept as text, so that our own rule names the known ones.
            text = str | None if field.default is None else str
            kind = Annotated[text, _argument(field, "{" + ",".join(NAMES[name]) + "}")]
            default = backbone_name(default) if name == "backbone" else default
        else:
            kind = Annotated[_optional(field), _argument(field, None)]
        rows.append((name, kind, dataclasses.field(default=default)))
    heading = (part.__doc__ or part.__name__).strip().partition("\n")[0].rstrip(".")
    group = dataclasses.make_dataclass(re.sub(r"\W+", "_", heading), rows)
    group.__doc__ = part.__doc__
    return group


def _optional(field: FieldInfo) -> Any:
    """The type of a field; those whose default follows another field may be None on the command line."""
    if field.default is None and get_origin(field.annotation) not in (Union, types.UnionType):
        return field.annotation | None  # type: ignore[operator]
    return field.annotation


def _argument(field: FieldInfo, metavar: str | None) -> Any:
    import tyro

    allowed = range_of(field)
    return tyro.conf.arg(help=f"{field.description} ({allowed})" if allowed else field.description, metavar=metavar)


def range_of(field: FieldInfo) -> str:
    """The bounds of a field in words, such as `at least 1`; empty where it has none."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = {
        name: bound for rule in field.metadata for name in words if (bound := getattr(rule, name, None)) is not None
    }
    return ", ".join(f"{words[name]} {bound:g}" for name, bound in found.items())
