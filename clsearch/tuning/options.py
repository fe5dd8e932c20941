"""Options of a study, and the command line that is generated from them and from the trial's configuration."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_origin

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from clsearch.core.config import PARTS, PRESETS, ConfigError, TrialConfig, explain, preset_settings
from clsearch.core.parts import BACKBONES, BENCHMARKS, FOLDER, Part, at_home, backbone_name
from clsearch.tuning.spaces import Range, Space, searchable

NAMES = {"benchmark": (*BENCHMARKS, f"{FOLDER}PATH"), "backbone": BACKBONES}
"""Options whose values are names of an open list."""


class StudyOptions(Part):
    """Study"""

    name: str = Field(
        "study",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="Name of the study, and of its folder in the results.",
    )
    trials: int | None = Field(
        None, ge=1, description="Configurations to try. Unless given: 32, or all points of a grid."
    )
    preset: Literal[tuple(PRESETS)] | None = Field(  # type: ignore[valid-type]
        None, description="Settings as other software has them; options given beside it win, a script's own do not."
    )
    references: tuple[Literal["finetuning", "joint", "independent"], ...] = Field(
        ("finetuning",),
        description="Trained beside the search, on the same seeds: finetuning (lower), joint on all tasks so far "
        "(upper; gives intransigence), independent networks, one per task.",
    )
    seeds: int = Field(3, ge=1, description="Seeds that each configuration is trained on.")
    first_seed: int = Field(0, ge=0, description="The seeds are this number and the ones that follow it.")
    sampler: Literal["tpe", "random", "grid"] = Field("tpe", description="How Optuna chooses.")
    sampler_seed: int = Field(0, ge=0, description="Seed of the sampler.")
    grid_points: int = Field(5, ge=2, description="Values per hyperparameter of a grid, spaced as the range is.")
    results: Path = Field(Path("results"), description="Folder that keeps the records of studies.")
    tracking_uri: str | None = Field(
        None,
        description="MLflow tracking server or store. Unless given: MLFLOW_TRACKING_URI, or SQLite in results.",
    )
    download: bool = Field(False, description="Download the data set into the data root first.")
    verbose: bool = Field(False, description="Show what Ray, Optuna and MLflow say.")

    @field_validator("references")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("must name each at most once")
        return value

    @field_validator("results")
    @classmethod
    def _home(cls, value: Path) -> Path:
        return at_home(value)


class ResourceOptions(Part):
    """Resources"""

    cpus_per_trial: int = Field(1, ge=1, description="CPU cores, and torch threads, of a trial.")
    gpus_per_trial: float = Field(0.0, ge=0, description="GPUs of a trial; a fraction shares one.")
    max_concurrent: int | None = Field(None, ge=1, description="Trials at the same time. Unless given: as many as fit.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to train; auto is cuda if a trial has a GPU, else cpu."
    )


class Options(StudyOptions, ResourceOptions):
    """Everything of a study that is not the configuration of a trial."""

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Options:
        """Validate flat settings. Raises ConfigError."""
        try:
            return cls(**settings)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None


TIED = {
    "backbone": ("hidden",),
    "grouping": ("tasks",),
    "classes_per_task": ("tasks",),
    "schedule": ("milestones", "decay"),
}
"""Option -> settings that a script made for its own value of it, and that go where the command line gives another."""


def untied(settings: dict[str, Any], script: dict[str, Any]) -> list[str]:
    """The settings that were made for a script's value of another one, which is another in `settings`."""
    defaults = {name: TrialConfig.model_fields[name].default for name in TIED}
    changed = [n for n in TIED if n in settings and settings[n] != script.get(n, defaults[n])]
    return [own for name in changed for own in TIED[name]]


def parse(
    algorithm: str,
    question: str,
    settings: dict[str, Any],
    space: Space,
    args: list[str] | None,
    follow: bool = False,
) -> tuple[dict[str, Any], Space]:
    """Read a command line: settings and space of a script, changed by what the user gave.

    A searchable number takes one value, which fixes it, or two, the range to search. follow: the script's space is the
    default one, so ranges that the user did not give are left out, to follow the settings. Help and unknown options
    end the process (exit codes 0 and 2); values against a rule raise ConfigError.
    """
    import tyro

    parts: tuple[type[Part], ...] = (StudyOptions, *PARTS[algorithm], ResourceOptions)
    groups = [_group(part, settings, space) for part in parts]
    form = dataclasses.make_dataclass(
        "Options", [(g.__name__, g, dataclasses.field(default_factory=g)) for g in groups]
    )
    given: Any = tyro.cli(
        form,
        args=args,
        description=question,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.EnumChoicesFromValues),
    )
    values = {name: value for group in vars(given).values() for name, value in vars(group).items()}
    # Underscores are taken for hyphens, as tyro does.
    flags = {word.partition("=")[0].replace("_", "-") for word in (sys.argv[1:] if args is None else args)}
    new_settings, new_space = _merge(values, space, flags)
    if new_settings["backbone"] == backbone_name(settings.get("backbone", "")):  # a function has no other text
        new_settings["backbone"] = settings["backbone"]
    gone = [name for name in untied(new_settings, settings) if _flag(name) not in flags]
    new_settings = {name: value for name, value in new_settings.items() if name not in gone}
    if "--preset" in flags:
        new_settings = _with_preset(algorithm, new_settings, settings, flags)
    if follow:
        new_space = {name: values for name, values in new_space.items() if _flag(name) in flags}
        # A value that neither the script nor the user gave may come to be searched, when another option changes.
        unnamed = [name for name in searchable() if name not in settings and _flag(name) not in flags]
        new_settings = {name: value for name, value in new_settings.items() if name not in unnamed}
    return new_settings, new_space


def _with_preset(algorithm: str, given: dict[str, Any], script: dict[str, Any], flags: set[str]) -> dict[str, Any]:
    """Settings under the preset of a command line in place of the script's; options given beside it stay."""
    old, new = (preset_settings(algorithm, settings.get("preset")) for settings in (script, given))
    own = {name for name in {*old, *new} if {_flag(name), _flag(f"no_{name}")} & flags}
    undone = {name for name, value in old.items() if name not in own and script.get(name) == value}
    kept = {name: value for name, value in given.items() if name not in undone}
    return kept | {name: value for name, value in new.items() if name not in own}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _merge(values: dict[str, Any], space: Space, flags: set[str]) -> tuple[dict[str, Any], Space]:
    scales = searchable()
    new_settings, new_space = {}, {}
    for name, value in values.items():
        if name not in scales:
            new_settings[name] = value
        elif len(value) == 1:
            new_settings[name] = value[0]
        elif len(value) == 2:
            new_space[name] = Range(value[0], value[1], log=space[name].log if name in space else scales[name] == "log")
        else:
            raise ConfigError([f"{name}: takes one value or a range of two; got {' '.join(map(str, value))}"])
    # A script sets one of the two; the user who gives the other means it instead, and both are refused later.
    for given, other in (("epochs", "iterations"), ("iterations", "epochs")):
        if f"--{given}" in flags and f"--{other}" not in flags:
            new_settings[other] = None
    # The script's number of trials was for its own space and sampler.
    if "--trials" not in flags and (not new_space or "--sampler" in flags):
        new_settings["trials"] = None
    # An explicit None is kept: it undoes what a script sets.
    return {name: v for name, v in new_settings.items() if v is not None or _flag(name) in flags}, new_space


def _group(part: type[Part], settings: dict[str, Any], space: Space) -> type:
    """A dataclass of one group of options for tyro, whose defaults are the script's."""
    scales = searchable()
    rows = []
    for name, field in part.model_fields.items():
        default = settings.get(name, field.default)
        if name in scales:
            default = (space[name].low, space[name].high) if name in space else (default,)
            kind: Any = Annotated[tuple[float, ...], _argument(field, "FLOAT [FLOAT]")]
        elif name in NAMES:
            # Kept as text, so that our own rule names the known ones.
            kind = Annotated[str, _argument(field, "{" + ",".join(NAMES[name]) + "}")]
            default = backbone_name(default) if name == "backbone" else default
        else:
            kind = Annotated[_optional(field), _argument(field, None)]
        rows.append((name, kind, dataclasses.field(default=default)))
    group = dataclasses.make_dataclass((part.__doc__ or part.__name__).strip(), rows)
    group.__doc__ = part.__doc__
    return group


def _optional(field: FieldInfo) -> Any:
    """The type of a field; those whose default follows another field may be None on the command line."""
    if field.default is None and get_origin(field.annotation) not in (Union, types.UnionType):
        return field.annotation | None  # type: ignore[operator]
    return field.annotation


def _argument(field: FieldInfo, metavar: str | None) -> Any:
    import tyro

    return tyro.conf.arg(help=field.description, metavar=metavar)
