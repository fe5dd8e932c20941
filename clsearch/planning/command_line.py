"""The command line of a study, generated from its options and from the fields of a trial's configuration."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Union, get_origin

from pydantic.fields import FieldInfo

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.redaction import redact_address
from clsearch.common.words import check_words, parse_quietly, redact_words
from clsearch.config.hyperparameters import Range, Space
from clsearch.config.sections import BACKBONES, BENCHMARKS, FOLDER, Section, backbone_name
from clsearch.methods.registry import known_fields, method_named, preset_settings, searchable
from clsearch.planning.config_file import expand_config_files, to_flag
from clsearch.planning.options import ADDRESSES, Options, Protocol, ResourceOptions, SelectionOptions, StudyOptions
from clsearch.planning.protocols import PROTOCOL_OPTIONS, SEARCH_OPTIONS

EVERY_BENCHMARK = (*BENCHMARKS, f"{FOLDER}PATH")
OPEN_NAMES = {"benchmark": EVERY_BENCHMARK, "report_benchmark": EVERY_BENCHMARK, "backbone": BACKBONES}
"""Options that take a name from an open list -> names to show."""

TIED = {
    "backbone": ("hidden",),
    "grouping": ("tasks",),
    "classes_per_task": ("tasks",),
    "schedule": ("milestones", "decay"),
    "protocol": tuple(name for names in PROTOCOL_OPTIONS.values() for name in names),
}
"""Option -> settings that a script chose for its value; a command line that gives another value drops them."""


@dataclasses.dataclass(frozen=True)
class Invocation:
    """Invocation

    Attributes:
        config: YAML file of options: a line `option: value` for each, a list for several values. Other options of the
            command line win.
        print_config: Print all options as such a file and exit.
        dry_run: Print the planned trials, their estimated duration (from a short probe) and the results folder, and
            exit.
    """

    config: Path | None = None
    print_config: bool = False
    dry_run: bool = False


def find_untied(settings: dict[str, Any], script: dict[str, Any]) -> list[str]:
    """List the settings that a script chose for its value of an option whose value differs in `settings`."""
    known = known_fields() | Options.model_fields
    defaults = {name: known[name].default for name in TIED}
    changed = [n for n in TIED if n in settings and settings[n] != script.get(n, defaults[n])]
    return [follower for name in changed for follower in TIED[name]]


def parse(
    algorithm: str,
    question: str,
    settings: dict[str, Any],
    space: Space,
    args: list[str] | None,
    follow: bool = False,
    without: Collection[str] = (),
) -> tuple[dict[str, Any], Space, Invocation]:
    """Read a command line.

    A searchable number takes one value, which fixes it, or two, the range to search. Help and unknown options end the
    process (exit codes 0 and 2).

    Args:
        algorithm: Name of the algorithm.
        question: Description of the study, shown in the help.
        settings: Settings of the script, the defaults of the options.
        space: Ranges of the script.
        args: Words of the command line; `sys.argv[1:]` if None.
        follow: The script's space is the default one: leave out ranges that the user does not give, because the default
            ranges follow the settings.
        without: Names of settings that are no options here.

    Returns:
        The settings and the space, changed by the command line, and what to do with them.

    Raises:
        ConfigError: For a value that breaks a rule.
    """
    trial_sections = method_named(algorithm).sections
    sections: tuple[type[Section], ...] = (StudyOptions, SelectionOptions, *trial_sections, ResourceOptions)
    groups = [_group(section, settings, space, without) for section in sections]
    names = {field.name for group in groups for field in dataclasses.fields(group)}
    known = {name: field for section in sections for name, field in section.model_fields.items() if name in names}
    own_words = sys.argv[1:] if args is None else args
    check_words(own_words)
    args = expand_config_files(own_words, known)
    check_words(args)
    hidden = settings | {name: redact_address(settings[name]) for name in ADDRESSES if settings.get(name)}
    shown_groups = [_group(section, hidden, space, without) for section in sections] if hidden != settings else groups
    values, asked = _read(groups, args, question, shown_groups)
    # tyro reads underscores as hyphens too.
    flags = {word.partition("=")[0].replace("_", "-") for word in args}
    new_settings, new_space = _merge(values, space, flags)
    if new_settings["backbone"] == backbone_name(settings.get("backbone", "")):  # the text of the script's function
        new_settings["backbone"] = settings["backbone"]
    dropped = [name for name in find_untied(new_settings, settings) if to_flag(name) not in flags]
    new_settings = {name: value for name, value in new_settings.items() if name not in dropped}
    if "--preset" in flags:
        new_settings = _with_preset(algorithm, new_settings, settings, flags)
    if follow:
        new_space = {name: values for name, values in new_space.items() if to_flag(name) in flags}
        # A value that neither the script nor the user gave can become searched if another option changes.
        unnamed = [name for name in searchable() if name not in settings and to_flag(name) not in flags]
        new_settings = {name: value for name, value in new_settings.items() if name not in unnamed}
    return new_settings, new_space, asked


def _read(
    groups: Sequence[type], args: list[str], question: str, shown_groups: Sequence[type]
) -> tuple[dict[str, Any], Invocation]:
    """Read the words of a command line with tyro: option -> value, and what to do with them.

    Help and errors show the defaults of `shown_groups`, which have no secrets.
    """
    import tyro

    def read(own: Sequence[type], words: Sequence[str]) -> Any:
        form = dataclasses.make_dataclass(
            "Options", [(g.__name__, g, dataclasses.field(default_factory=g)) for g in (Invocation, *own)]
        )
        return tyro.cli(
            form,
            args=words,
            description=question,
            config=(
                tyro.conf.OmitArgPrefixes,
                tyro.conf.OmitSubcommandPrefixes,
                tyro.conf.EnumChoicesFromValues,
                tyro.conf.HelptextFromCommentsOff,  # descriptions have the help; reading sources for more takes long
            ),
        )

    given = parse_quietly(partial(read, groups), partial(read, shown_groups), args, redact_words(args, ADDRESSES))
    asked = given.Invocation
    return {n: v for group in vars(given).values() if group is not asked for n, v in vars(group).items()}, asked


def _with_preset(algorithm: str, given: dict[str, Any], script: dict[str, Any], flags: set[str]) -> dict[str, Any]:
    """Replace the script's preset by the command line's; options that the command line names stay."""
    old, new = (preset_settings(algorithm, settings.get("preset")) for settings in (script, given))
    named = {name for name in {*old, *new} if {to_flag(name), to_flag(f"no_{name}")} & flags}
    undone = {name for name, value in old.items() if name not in named and script.get(name) == value}
    kept = {name: value for name, value in given.items() if name not in undone}
    return kept | {name: value for name, value in new.items() if name not in named}


def _merge(values: dict[str, Any], space: Space, flags: set[str]) -> tuple[dict[str, Any], Space]:
    """Split the values of all options into settings and ranges, and undo script settings that the user replaces."""
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
            text = f"{name}: takes one value or a range of two; got {' '.join(map(str, value))}"
            raise ConfigError([Refusal("value-or-range", text)])
    # A script sets one of the two; a user who gives the other replaces it, and giving both is refused later.
    for given, other in (("epochs", "iterations"), ("iterations", "epochs")):
        if f"--{given}" in flags and f"--{other}" not in flags:
            new_settings[other] = None
    # The script's number of trials was for its own space and sampler.
    if "--trials" not in flags and (not new_space or "--sampler" in flags):
        new_settings["trials"] = None
    if new_settings.get("protocol") is Protocol.CONTINUAL:  # no sampler chooses
        new_settings = {k: v for k, v in new_settings.items() if k not in SEARCH_OPTIONS or to_flag(k) in flags}
    # An explicit None stays: it undoes the script's setting.
    return {name: v for name, v in new_settings.items() if v is not None or to_flag(name) in flags}, new_space


def _group(section: type[Section], settings: dict[str, Any], space: Space, without: Collection[str]) -> type:
    """Make tyro's dataclass of one section; its defaults are the script's."""
    known = searchable()
    rows = []
    for name, field in section.model_fields.items():
        if name in without:
            continue
        default = settings.get(name, field.default)
        if name in known:
            default = (space[name].low, space[name].high) if name in space else (default,)
            kind: Any = Annotated[tuple[float, ...], _argument(field, "FLOAT [FLOAT]")]
        elif name in OPEN_NAMES:
            # Plain text for tyro, so that the section's own rule refuses unknown names.
            text = str | None if field.default is None else str
            kind = Annotated[text, _argument(field, "{" + ",".join(OPEN_NAMES[name]) + "}")]
            default = backbone_name(default) if name == "backbone" else default
        else:
            kind = Annotated[_optional(field), _argument(field, None)]
        rows.append((name, kind, dataclasses.field(default=default)))
    heading = (section.__doc__ or section.__name__).strip().partition("\n")[0].rstrip(".")
    group = dataclasses.make_dataclass(re.sub(r"\W+", "_", heading), rows)
    group.__doc__ = section.__doc__
    return group


def _optional(field: FieldInfo) -> Any:
    """Return the type of a field, with None if its default follows another field."""
    if field.default is None and get_origin(field.annotation) not in (Union, types.UnionType):
        return field.annotation | None  # type: ignore[operator]
    return field.annotation


def _argument(field: FieldInfo, metavar: str | None) -> Any:
    import tyro

    allowed = describe_bounds(field)
    return tyro.conf.arg(help=f"{field.description} ({allowed})" if allowed else field.description, metavar=metavar)


def describe_bounds(field: FieldInfo) -> str:
    """Describe the bounds of a field, as in `at least 1`; empty if it has none."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = {
        name: bound for rule in field.metadata for name in words if (bound := getattr(rule, name, None)) is not None
    }
    return ", ".join(f"{words[name]} {bound:g}" for name, bound in bounds.items())
