"""Every method by name: those of this package, one file each, and those that users register.

Importing this module loads no torch, so that a script's help is fast.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import create_model

import clsearch.methods
from clsearch.common.errors import ConfigError
from clsearch.config.hyperparameters import Hyperparameter, Space
from clsearch.config.sections import COMMON_SECTIONS, Section, hyperparameters_in
from clsearch.config.trial import TrialConfig, config_class
from clsearch.data.datasets import Source
from clsearch.methods.base import Build, Method


def find_built_in() -> dict[str, Method]:
    """The methods that the files of this package declare in `METHODS`, by name."""
    names = [module.name for module in pkgutil.iter_modules(clsearch.methods.__path__) if not module.ispkg]
    modules = [
        importlib.import_module(f"clsearch.methods.{name}") for name in names if name not in ("base", "registry")
    ]
    return {method.name: method for module in modules for method in module.METHODS}


BUILT_IN: dict[str, Method] = find_built_in()
"""Name -> method of this package."""

CUSTOM_METHODS: dict[str, Method] = {}
"""Name -> method that was registered in this process. They travel to workers by value."""


def methods() -> dict[str, Method]:
    """Every method that this process knows, by name."""
    return BUILT_IN | CUSTOM_METHODS


def method_named(name: Any) -> Method:
    """The method of a name. Raises ConfigError for an unknown one."""
    known = methods()
    if not isinstance(name, str) or name not in known:
        raise ConfigError([f"algorithm: must be one of {', '.join(known)}; got {name!r}"])
    return known[name]


def register(method: Method | str, *build: Build, settings: Sequence[str] = ()) -> None:
    """Make a method of your own known in this process, and in the workers of the studies that it starts.

    Registering a name again replaces what it stood for.

    Args:
        method: The method, declared; or the name of one that is made of the following arguments.
        build: With a name: for each of its regularizers, the function that makes it from a configuration.
        settings: With a name: hyperparameters of methods known already that it uses, such as `penalty_factor`. It
            finds them, [M] each, among its hyperparameters.

    Raises:
        ConfigError: For a name that is taken, an unknown setting, or a field that every method has already.
    """
    if isinstance(method, str):
        method = compose_method(method, build, settings)
    if not method.name.isidentifier() or method.name in BUILT_IN:
        raise ConfigError([f"name: must be a new one, of letters, digits and underscores; got {method.name}"])
    common = {name for section in COMMON_SECTIONS for name in section.model_fields}
    if taken := [name for section in method.own_sections for name in section.model_fields if name in common]:
        raise ConfigError([f"section: must not have fields that every method has; got {', '.join(taken)}"])
    CUSTOM_METHODS[method.name] = method


def compose_method(name: str, build: Sequence[Build], settings: Sequence[str]) -> Method:
    """A method whose hyperparameters are those of other methods. Raises ConfigError for an unknown one."""
    fields = known_fields()
    known = [own for own in searchable() if own != "learning_rate"]
    if unknown := [own for own in settings if own not in known]:
        raise ConfigError([f"settings: must be of {', '.join(known)}; got {', '.join(unknown)}"])
    own: Any = {setting: (fields[setting].annotation, fields[setting]) for setting in settings}
    section: type[Section] = create_model("Custom", __base__=Section, __doc__=name.replace("_", " "), **own)
    parts = tuple(Method(f"{name}_{index}", name, build=make) for index, make in enumerate(build))
    return Method(name, name.replace("_", " "), section=section, parts=parts)


def accept(custom: Mapping[str, Method]) -> None:
    """Take methods as another process registered them."""
    CUSTOM_METHODS.update(custom)


def configure(algorithm: str, settings: Mapping[str, Any], source: Source | None = None) -> TrialConfig:
    """Validate the configuration of a trial.

    Args:
        algorithm: Name of a method.
        settings: Flat: field -> value; None means unless given.
        source: Of the benchmark, if it is known already; else a folder of images is listed for it.

    Raises:
        ConfigError: For an unknown algorithm or key, a value against its rule, a setting of another algorithm, or
            images that cannot be used.
    """
    method = method_named(algorithm)
    kind = config_class(method.sections)
    return kind.build(algorithm, settings, source, method.derived_defaults, method.problems)


def fields_of(algorithm: str) -> tuple[str, ...]:
    """Names of the fields that act in an algorithm, in the order of its sections."""
    return method_named(algorithm).fields


def known_fields() -> dict[str, Any]:
    """Every field of every method's configuration: name -> pydantic's FieldInfo."""
    sections = [section for method in methods().values() for section in method.sections]
    return {name: field for section in sections for name, field in section.model_fields.items()}


def searchable() -> dict[str, Hyperparameter]:
    """Everything that a study of some method may search."""
    return hyperparameters_in(section for method in methods().values() for section in method.sections)


def decaying() -> tuple[str, ...]:
    """Hyperparameters that the continual protocol halves until a task is learned well enough."""
    return tuple(name for name, mark in searchable().items() if mark.decays)


def label_of(algorithm: str) -> str:
    """An algorithm as people write it; the name in words if this process does not know it."""
    known = methods().get(algorithm)
    return algorithm.replace("_", " ") if known is None else known.label


def symbol_of(hyperparameter: str) -> str | None:
    """The letter that papers use for a hyperparameter, if there is one."""
    mark = searchable().get(hyperparameter)
    return None if mark is None else mark.symbol


def presets() -> tuple[str, ...]:
    """Names of the presets of this package's methods."""
    return tuple(dict.fromkeys(name for m in BUILT_IN.values() for part in m.all_parts for name in part.presets))


def preset_settings(algorithm: str, preset: str | None) -> dict[str, Any]:
    """The settings of a preset that act in an algorithm; none for an unknown one, which its own rule refuses."""
    known = methods().get(algorithm) if isinstance(algorithm, str) else None
    return {} if known is None else known.preset(preset)


def default_space(config: TrialConfig) -> Space:
    """The ranges that are searched where a study names none."""
    return method_named(config.algorithm).default_space(config)


def digest_source(config: TrialConfig) -> str | None:
    """Name the source of a registered method's regularizers, so that a study notices that they were changed; None for
    a method of this package, and if the source cannot be read.
    """
    if config.algorithm not in CUSTOM_METHODS:
        return None
    try:
        texts = [inspect.getsource(type(build(config))) for build in CUSTOM_METHODS[config.algorithm].builders]
    except (OSError, TypeError):
        return None
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]
