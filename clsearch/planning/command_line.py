"""The command line of a study, generated from its options and from the fields of a trial's configuration."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clsearch.common.redaction import redact_address
from clsearch.common.words import check_words, parse_quietly, redact_words
from clsearch.config.domains import Choice, Domain, IntRange, Range
from clsearch.config.plain_values import backbone_name
from clsearch.config.sections import Section
from clsearch.config.spaces import SearchSpace
from clsearch.methods.registry import known_fields, method_named, preset_settings
from clsearch.planning.config_file import expand_config_files, read_yaml, to_flag
from clsearch.planning.option_groups import OPEN_NAMES, WORDS, _group
from clsearch.planning.option_words import check_flags, check_single, join_constraints, read_constraints, spell_flags
from clsearch.planning.options import (
    ADDRESSES,
    Options,
    Protocol,
    Pruner,
    ResourceOptions,
    SelectionOptions,
    StudyOptions,
)
from clsearch.planning.protocols import PROTOCOL_OPTIONS, SEARCH_OPTIONS
from clsearch.planning.samplers import SAMPLERS
from clsearch.planning.search_fields import (
    NOT_SEARCHED,
    SearchField,
    read_flow,
    read_space,
    read_when,
    read_words,
    search_fields,
)

OPEN_NAMES |= {"sampler": tuple(SAMPLERS), "pruner": tuple(Pruner), "hours": ("HOURS",)}
"""Options that take a word, which their rules check -> words to show."""

OBJECTS = ("sampler", "pruner", "hours", "constraints")
"""Options that a command line has in another form than a script."""


EITHER_NAME = {"epochs": "iterations", "iterations": "epochs"}
"""Setting -> the one that it excludes."""

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
        space: YAML file of a search space that replaces the script's: a line `hyperparameter: domain` for each, and
            conditional parts under `when`.
        when: Conditional parts of the search space, each in YAML: "{if: {optimizer: sgd}, momentum: [0, 0.99]}".
        print_config: Print all options as such a file and exit.
        dry_run: Print the planned trials, their estimated duration (from a short probe) and the results folder, and
            exit.
    """

    config: Path | None = None
    space: Path | None = None
    when: tuple[str, ...] = ()
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
    space: SearchSpace,
    args: list[str] | None,
    follow: bool = False,
    without: Collection[str] = (),
) -> tuple[dict[str, Any], SearchSpace, Invocation]:
    """Read a command line.

    A setting that can be searched takes one value, which fixes it, or several, the domain to search. Help and unknown
    options end the process (exit codes 0 and 2).

    Args:
        algorithm: Name of the algorithm.
        question: Description of the study, shown in the help.
        settings: Settings of the script, the defaults of the options.
        space: Search space of the script.
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
    searched = {
        name: dataclasses.replace(field, log=space[name].log) if name in space and space[name].numeric else field
        for name, field in search_fields(algorithm).items()
        if name not in without
    }
    groups = [_group(section, settings, space, searched, without) for section in sections]
    names = {field.name for group in groups for field in dataclasses.fields(group)}
    known = {name: field for section in sections for name, field in section.model_fields.items() if name in names}
    own_words = sys.argv[1:] if args is None else args
    check_words(own_words)
    args = join_constraints(spell_flags(expand_config_files(own_words, known, searched), searched))
    check_words(args)
    check_flags(args, {*names, *(field.name for field in dataclasses.fields(Invocation))})
    check_single(args, {name: field for name, field in known.items() if name not in searched})
    hidden = settings | {name: redact_address(settings[name]) for name in ADDRESSES if settings.get(name)}
    shown_groups = [_group(s, hidden, space, searched, without) for s in sections] if hidden != settings else groups
    values, asked = _read(groups, args, question, shown_groups)
    # tyro reads underscores as hyphens too.
    flags = {word.partition("=")[0].replace("_", "-") for word in args}
    given = {
        name: None if values[name] is None else read_words(searched[name], values[name])
        for name in searched
        if to_flag(name) in flags
    }
    base = {} if follow else space
    new_space = _read_space(base, given, asked, searched)
    fixed = {name: one for name, one in given.items() if not isinstance(one, Range | IntRange | Choice)}
    searches = bool(new_space) or (follow and any(name not in fixed for name in space))
    new_settings = _merge(values, fixed, settings, new_space, searches, flags)
    if new_settings.get("backbone") == backbone_name(settings.get("backbone", "")):  # the text of the script's function
        new_settings["backbone"] = settings["backbone"]
    if "constraints" in new_settings:
        new_settings["constraints"] = read_constraints(new_settings["constraints"])
    kept = {*OBJECTS} & {*settings} & {*new_settings} | {*WORDS} & {*settings}
    new_settings |= {name: settings[name] for name in kept if to_flag(name) not in flags}
    dropped = [name for name in find_untied(new_settings, settings) if to_flag(name) not in flags]
    new_settings = {name: value for name, value in new_settings.items() if name not in dropped}
    if "--preset" in flags:
        new_settings = _with_preset(algorithm, new_settings, settings, flags)
    return {name: new_settings[name] for name in (*values, *new_settings) if name in new_settings}, new_space, asked


def _read_space(
    base: Mapping[str, Domain], given: Mapping[str, Any], asked: Invocation, searched: Mapping[str, SearchField]
) -> SearchSpace:
    """Make the search space of a command line: the script's or a file's, changed by the options.

    Args:
        base: The script's space; empty if it is the default one.
        given: Name of an option of the command line -> one value, or a domain.
        asked: What to do.
        searched: The fields that can be searched.

    Raises:
        ConfigError: For a space that breaks a rule.
    """
    space = SearchSpace.of(base)
    if asked.space is not None:
        space = SearchSpace.of(read_space(searched, read_yaml("space", asked.space, "a search space"), "space"))
    replaced = {*given} | {other for name, other in EITHER_NAME.items() if name in given and other not in given}
    space = space.only(lambda name: name not in replaced)
    if asked.when:
        space = SearchSpace(part for part in space.parts if not part.conditions)
    domains = {name: value for name, value in given.items() if isinstance(value, Range | IntRange | Choice)}
    whens = [read_when(searched, read_flow("when", word), "when") for word in asked.when]
    return SearchSpace.of([space, domains, *whens])


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


def _merge(
    values: dict[str, Any],
    fixed: Mapping[str, Any],
    script: Mapping[str, Any],
    space: SearchSpace,
    searches: bool,
    flags: set[str],
) -> dict[str, Any]:
    """Make the settings of a command line, and undo script settings that the user replaces.

    Args:
        values: Option -> value, that of the script unless the user gave one.
        fixed: Name of a field that can be searched -> the one value that the user gave.
        script: Settings of the script.
        space: The search space.
        searches: True if something is searched.
        flags: Options that the user gave.
    """
    fields = {*known_fields()} - {*NOT_SEARCHED}
    kept = {name: script[name] for name in values if name in fields and name in script}
    others = {name: value for name, value in values.items() if name not in fields}
    new_settings = {name: value for name, value in (others | kept | dict(fixed)).items() if name not in space.always}
    # A script sets one of the two; a user who gives the other replaces it, and giving both is refused later.
    for one, other in EITHER_NAME.items():
        if to_flag(one) in flags and to_flag(other) not in flags:
            new_settings[other] = None
    # The script's number of trials was for its own space and sampler.
    if "--trials" not in flags and (not searches or "--sampler" in flags):
        new_settings["trials"] = None
    if new_settings.get("protocol") is Protocol.CONTINUAL:  # no sampler chooses
        new_settings = {k: v for k, v in new_settings.items() if k not in SEARCH_OPTIONS or to_flag(k) in flags}
    # An explicit None stays: it undoes the script's setting.
    return {n: v for n, v in new_settings.items() if v is not None or to_flag(n) in flags}
