"""The command line of a study, generated from its options and from the fields of a trial's configuration."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Union, get_origin

from pydantic.fields import FieldInfo

from clsearch.common.errors import ConfigError, Refusal, did_you_mean
from clsearch.common.redaction import redact_address
from clsearch.common.words import check_words, parse_quietly, redact_words
from clsearch.config.domains import Choice, Domain, IntRange, Range, backbone_name, to_plain
from clsearch.config.sections import BENCHMARKS, FOLDER, Section
from clsearch.config.spaces import SearchSpace
from clsearch.methods.registry import known_fields, method_named, preset_settings
from clsearch.planning.config_file import expand_config_files, read_yaml, to_flag, write_nested
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
from clsearch.planning.samplers import SAMPLERS, describe_choice
from clsearch.planning.search_fields import (
    NOT_SEARCHED,
    SearchField,
    ValueKind,
    read_flow,
    read_space,
    read_when,
    read_words,
    search_fields,
    write_word,
    write_words,
)

EVERY_BENCHMARK = (*BENCHMARKS, f"{FOLDER}PATH")
OPEN_NAMES = {"benchmark": EVERY_BENCHMARK, "report_benchmark": EVERY_BENCHMARK}
OPEN_NAMES |= {"sampler": tuple(SAMPLERS), "pruner": tuple(Pruner), "hours": ("HOURS",)}
"""Options that take a word, which their rules check -> words to show."""

OBJECTS = ("sampler", "pruner", "hours", "constraints")
"""Options that a command line has in another form than a script."""

WORDS = {"enqueue": "FILE|{...} [FILE|{...} ...]"}
"""Options that take files or values in YAML -> what the help shows for them."""

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


def check_flags(words: Sequence[str], known: Collection[str]) -> None:
    """Refuse an option that does not exist, and suggest one. Raises ConfigError."""
    flags = dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("--") and len(word) > 2)
    names = {flag: flag.lstrip("-").replace("-", "_") for flag in flags}
    unknown = {
        flag: name
        for flag, name in names.items()
        if name not in known and name.removeprefix("no_") not in known and name != "help"
    }
    if unknown:
        raise ConfigError(
            Refusal(
                "option-known",
                f"{name}: must be an option{did_you_mean(name, sorted(known))}; got {flag} (--help lists all)",
            )
            for flag, name in unknown.items()
        )


def check_single(words: Sequence[str], known: Mapping[str, FieldInfo]) -> None:
    """Refuse several values of an option that takes one, and say why it is not searched. Raises ConfigError."""
    given: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0].lstrip("-").replace("-", "_")
            given[name] = []
        elif name:
            given[name].append(word)
    several = {name for name, field in known.items() if re.search("tuple|dict", str(field.annotation))}
    problems = [
        Refusal("one-value", f"{name}: must have one value{_why_single(name)}; got {' '.join(values)}")
        for name, values in given.items()
        if name in known and len(values) > 1 and name not in several
    ]
    if problems:
        raise ConfigError(problems)


def _why_single(name: str) -> str:
    return f", because it is {NOT_SEARCHED[name]}" if name in NOT_SEARCHED else ""


def spell_flags(words: Sequence[str], searched: Mapping[str, SearchField]) -> list[str]:
    """Write `--flag` and `--no-flag` of settings that are true or false with a value, since they can have several."""
    flags = {to_flag(name) for name, field in searched.items() if field.kind is ValueKind.FLAG}
    spelled: list[str] = []
    for word, following in pairwise([*words, "--"]):
        name = word.replace("_", "-")
        if name.replace("--no-", "--", 1) in flags - {name}:
            spelled += [name.replace("--no-", "--", 1), "false"]
        elif name in flags and following.startswith("--"):
            spelled += [word, "true"]
        else:
            spelled.append(word)
    return spelled


def join_constraints(words: Sequence[str]) -> list[str]:
    """Write every `--constraint METRIC VALUE` as pairs of one `--constraints`, ahead of the other words."""
    pairs, others, inside = list[str](), list[str](), False
    for word in words:
        if word.startswith("--"):
            inside = word in ("--constraint", "--constraints")
        if inside:
            pairs += [] if word.startswith("--") else [word]
        else:
            others.append(word)
    return ["--constraints", *pairs, *others] if len(others) < len(words) else others


def read_constraints(words: Sequence[str]) -> dict[str, Any]:
    """Read pairs of a metric and a number; the rules of the option refuse what is no number. Raises ConfigError."""
    if len(words) % 2:
        text = f"constraints: must be pairs, METRIC VALUE; got {' '.join(words)}"
        raise ConfigError([Refusal("constraint-pairs", text)])
    return dict(zip(words[::2], words[1::2], strict=True))


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


def _group(
    section: type[Section],
    settings: dict[str, Any],
    space: SearchSpace,
    searched: Mapping[str, SearchField],
    without: Collection[str],
) -> type:
    """Make tyro's dataclass of one section; its defaults are the script's."""
    rows = []
    unconditional = {part.name: part.domain for part in space.parts if not part.conditions}
    for name, field in section.model_fields.items():
        if name in without:
            continue
        default = settings.get(name, field.default)
        if name in searched:
            # Plain words for tyro, so that the section's own rules refuse them.
            kind: Any = Annotated[tuple[str, ...] | None, _argument(field, searched[name].metavar)]
            default = _default_words(searched[name], unconditional.get(name), default)
        elif isinstance(field.default, dict):
            kind = Annotated[tuple[str, ...], _argument(field, "METRIC VALUE")]
            default = tuple(str(word) for pair in default.items() for word in pair)
        elif name in OPEN_NAMES:
            text = str | None if field.default is None else str
            default = default if default is None else describe_choice(default)
            shown = OPEN_NAMES[name]
            kind = Annotated[text, _argument(field, "{" + ",".join(shown) + "}" if len(shown) > 1 else shown[0])]
        elif name in WORDS:
            kind = Annotated[tuple[str, ...] | None, _argument(field, WORDS[name])]
            default = None if default is None else tuple(map(write_nested, default))
        else:
            kind = Annotated[_optional(field), _argument(field, None)]
        rows.append((name, kind, dataclasses.field(default=default)))
    heading = (section.__doc__ or section.__name__).strip().partition("\n")[0].rstrip(".")
    group = dataclasses.make_dataclass(re.sub(r"\W+", "_", heading), rows)
    group.__doc__ = section.__doc__
    return group


def _default_words(field: SearchField, domain: Domain | None, default: Any) -> tuple[str, ...] | None:
    """Write the script's value or domain of a field as words."""
    if domain is not None:
        return tuple(write_words(field, domain))
    if default is None:
        return None
    several = isinstance(default, tuple | list)
    return tuple(write_word(one) for one in default) if several else (write_word(to_plain(default)),)


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
