"""Look up methods by name: those of this package, one file each, and those that users register.

Importing this module does not load torch, so a script's help is fast.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import clsearch.methods
from clsearch.common.code_digest import digest_code
from clsearch.common.errors import ConfigError, Refusal, script_refusals
from clsearch.config.domains import Domains
from clsearch.config.hyperparameters import Hyperparameter
from clsearch.config.sections import COMMON_SECTIONS, hyperparameters_in
from clsearch.config.trial import TrialConfig, config_class
from clsearch.data.datasets import Source
from clsearch.methods.base import Build, Method
from clsearch.methods.settings import Setting, make_section

T = TypeVar("T")

CODE = "code-"
"""Beginning of digests of code; those of studies before version 0.2 cover less and have none."""


def find_built_in() -> dict[str, Method]:
    """Collect the methods that the files of this package declare in `METHODS`, by name."""
    names = [module.name for module in pkgutil.iter_modules(clsearch.methods.__path__) if not module.ispkg]
    modules = [
        importlib.import_module(f"clsearch.methods.{name}")
        for name in names
        if name not in ("base", "registry", "settings")
    ]
    found = (method for module in modules for method in module.METHODS)
    return {method.name: method for method in sorted(found, key=lambda method: method.unlearns)}


BUILT_IN: dict[str, Method] = find_built_in()
"""Name -> method of this package."""

CUSTOM_METHODS: dict[str, Method] = {}
"""Name -> method registered in this process. Workers receive them by value."""


def methods() -> dict[str, Method]:
    """Return every method that this process knows, by name."""
    return BUILT_IN | CUSTOM_METHODS


def method_named(name: Any) -> Method:
    """Return the method of a name.

    Raises:
        ConfigError: For an unknown name.
    """
    known = methods()
    if not isinstance(name, str) or name not in known:
        raise ConfigError([Refusal("algorithm-known", f"algorithm: must be one of {', '.join(known)}; got {name!r}")])
    return known[name]


def register(method: Method | str, *build: Build, settings: Mapping[str, Setting | None] | Sequence[str] = ()) -> None:
    """Register a method of your own in this process, and in the workers of the studies that it starts.

    Registering a name again replaces the method.

    Args:
        method: The declared method; or the name of a method that the following arguments define.
        build: With a name: one function per regularizer that makes it from a configuration.
        settings: With a name: its settings, each a `Setting`; None, or a list of names, takes the setting of that name
            of a built-in method, such as `penalty_factor`. `prepare` receives numbers, [M] each; all are fields of the
            configuration.

    Raises:
        ConfigError: For the name of a built-in method, a name with other characters than letters, digits and
            underscores, an unknown setting, a wrong `Setting`, or a field that every method already has.

    Example:
        >>> from clsearch import Method, register
        >>> register(Method(name="plain", label="Plain", summary="Training without a penalty."))
        >>> method_named("plain").trainable_name
        'PlainTrainable'
    """
    with script_refusals():
        _register(compose_method(method, build, settings) if isinstance(method, str) else method)


def _register(method: Method) -> None:
    if not method.name.isidentifier() or method.name in BUILT_IN:
        text = f"name: must be new, of letters, digits and underscores; got {method.name}"
        raise ConfigError([Refusal("method-name", text)])
    common = {name for section in COMMON_SECTIONS for name in section.model_fields}
    if common_fields := [name for section in method.own_sections for name in section.model_fields if name in common]:
        text = f"section: must not have fields that every method has; got {', '.join(common_fields)}"
        raise ConfigError([Refusal("section-fields-new", text)])
    CUSTOM_METHODS[method.name] = method


def compose_method(name: str, build: Sequence[Build], settings: Mapping[str, Setting | None] | Sequence[str]) -> Method:
    """Declare a method with settings of its own, and of other methods.

    Args:
        name: Its name.
        build: One function per regularizer.
        settings: Name -> setting; None, or a list of names, takes that of a known method.

    Raises:
        ConfigError: For an unknown setting, or one that cannot be declared so.
    """
    declared = settings if isinstance(settings, Mapping) else dict.fromkeys(settings)
    fields, known = known_fields(), [name for name in searchable() if name != "learning_rate"]
    taken = [setting for setting, value in declared.items() if value is None]
    if unknown := [setting for setting in taken if setting not in known]:
        text = f"settings: must be declared by a Setting or be among {', '.join(known)}"
        raise ConfigError([Refusal("settings-known", f"{text}; got {', '.join(unknown)}")])
    own = {setting: value for setting, value in declared.items() if value is not None}
    section = make_section(name, own, {setting: fields[setting] for setting in taken})
    parts = tuple(Method(f"{name}_{index}", name, build=make) for index, make in enumerate(build))
    return Method(name, name.replace("_", " "), section=section, parts=parts)


def accept(custom: Mapping[str, Method]) -> None:
    """Add the methods that another process has registered."""
    CUSTOM_METHODS.update(custom)


def configure(algorithm: str, settings: Mapping[str, Any], source: Source | None = None) -> TrialConfig:
    """Validate the configuration of a trial.

    Args:
        algorithm: Name of a method.
        settings: Flat: field -> value; None stands for the default.
        source: Source of the benchmark, if it is known; otherwise the files of a folder of images are listed.

    Raises:
        ConfigError: For an unknown algorithm or key, a value that violates its rule, a setting of another algorithm, or
            images that cannot be used.

    Example:
        >>> configure("lwf", {"distillation_factor": 2.0, "epochs": 1}).distillation_factor
        2.0
    """
    method = method_named(algorithm)
    kind = config_class(method.sections)
    return kind.build(algorithm, settings, source, method.derived_defaults, method.problems)


def fields_of(algorithm: str) -> tuple[str, ...]:
    """Return the names of an algorithm's fields, in the order of its sections."""
    return method_named(algorithm).fields


def known_fields() -> dict[str, Any]:
    """Return every field of every method's configuration: name -> pydantic's FieldInfo."""
    sections = [section for method in methods().values() for section in method.sections]
    return {name: field for section in sections for name, field in section.model_fields.items()}


def searchable() -> dict[str, Hyperparameter]:
    """Return every hyperparameter that a study of some method can search."""
    return hyperparameters_in(section for method in methods().values() for section in method.sections)


def decaying() -> tuple[str, ...]:
    """Return the hyperparameters that the continual protocol halves until a task is learned well enough."""
    return tuple(name for name, mark in searchable().items() if mark.decays)


def label_of(algorithm: str) -> str:
    """Return an algorithm's name in text; for an unknown algorithm, its name with spaces."""
    known = methods().get(algorithm)
    return algorithm.replace("_", " ") if known is None else known.label


def symbol_of(hyperparameter: str) -> str | None:
    """Return the symbol of a hyperparameter in papers; None if there is none."""
    mark = searchable().get(hyperparameter)
    return None if mark is None else mark.symbol


def presets() -> tuple[str, ...]:
    """Return the names of the presets of this package's methods."""
    return tuple(dict.fromkeys(name for m in BUILT_IN.values() for part in m.all_parts for name in part.presets))


def preset_settings(algorithm: str, preset: str | None) -> dict[str, Any]:
    """Return the settings of a preset that apply to an algorithm; empty for an unknown algorithm."""
    known = methods().get(algorithm) if isinstance(algorithm, str) else None
    return {} if known is None else known.preset(preset)


def default_space(config: TrialConfig) -> Domains:
    """Return the ranges that a study searches if it names none."""
    return method_named(config.algorithm).default_space(config)


def digest_source(config: TrialConfig) -> str | None:
    """Return a digest of a registered method's regularizers, so that a study detects changes.

    It covers their code, the values that they are built with, and all of the user's code that they reach
    (`code_digest`). It is computed once in a process, before training can change a value that it covers.

    Returns:
        None for a method of this package.
    """
    method = CUSTOM_METHODS.get(config.algorithm)
    return None if method is None else _digest_once(method, config, _digest_method)


def digest_backbone(config: TrialConfig) -> str | None:
    """Return the same of the factory of a user's own backbone; None for a backbone of this package."""
    factory = config.backbone
    return None if isinstance(factory, str) else _digest_once(factory, config, lambda made, _: digest_code([made]))


_DIGESTS: dict[tuple[int, str], tuple[Any, str]] = {}
"""Identity of a value, settings -> the value, its digest."""


def _digest_once(value: T, config: TrialConfig, digest: Callable[[T, TrialConfig], str]) -> str:
    key = id(value), repr(config.flat())
    if key not in _DIGESTS:
        _DIGESTS[key] = value, f"{CODE}{digest(value, config)}"
    return _DIGESTS[key][1]


def _digest_method(method: Method, config: TrialConfig) -> str:
    """Digest builders and what they build; of what differs each time, as random values do, the class."""
    try:
        built = [[build(config) for build in method.builders] for _ in range(2)]
    except Exception:  # the checks before a study build them too, and report it
        return digest_code(method.builders, (TrialConfig,))
    first, second = (digest_code([*method.builders, *own], (TrialConfig,)) for own in built)
    return first if first == second else digest_code([*method.builders, *map(type, built[0])], (TrialConfig,))


def digest_classes(config: TrialConfig) -> str | None:
    """Return the digest that studies before version 0.2 have: of the source of a registered method's classes."""
    if config.algorithm not in CUSTOM_METHODS:
        return None
    try:
        texts = [inspect.getsource(type(build(config))) for build in CUSTOM_METHODS[config.algorithm].builders]
    except (OSError, TypeError):
        return None
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]
