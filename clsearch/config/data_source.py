"""Find the data source of a configuration: a named data set or a folder of images, its classes grouped into tasks."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from clsearch.common.echo import echo
from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.files import read_small_text
from clsearch.config.sections import BENCHMARKS, FOLDER, BenchmarkConfig, TaskConstruction
from clsearch.data.datasets import SOURCES, Source, folder_source
from clsearch.data.image_folder import compose_accents

MOST_BYTES = 1_000_000
"""Size of a file of groups."""


def find_source(settings: dict[str, Any]) -> Source | None:
    """Find the data source that flat settings name, with its classes grouped if they name a grouping.

    Args:
        settings: Field -> value; fields of other sections are ignored. A grouping names classes, or numbers them from
            0.

    Returns:
        The source, or None if a rule of the benchmark's own fields refuses the settings.

    Raises:
        ConfigError: For images or a grouping that cannot be used.
    """
    try:
        config = BenchmarkConfig(**{k: v for k, v in settings.items() if k in BenchmarkConfig.model_fields})
    except ValidationError:
        return None
    groups = None if config.grouping is None else read_groups(config.grouping)
    if config.benchmark.startswith(FOLDER):
        folder = Path(config.benchmark.removeprefix(FOLDER))
        only = None if groups is None else tuple(name for group in groups for name in group)
        source = folder_source(folder, only, config.image_size, config.image_channels)
    else:
        source = SOURCES[BENCHMARKS[config.benchmark][1]]
    if groups is None:
        return source
    label_of = {str(label): label for label in range(len(source.classes))}
    label_of |= {compose_accents(name): label for label, name in enumerate(source.classes)}
    if unknown := [name for group in groups for name in group if name not in label_of]:
        known = ", ".join(source.classes[:20]) + (", ..." if len(source.classes) > 20 else "")
        text = f"grouping: must name classes of {config.benchmark}, {known}; got {', '.join(unknown)}"
        raise ConfigError([Refusal("grouping-known-classes", text)])
    labels = tuple(tuple(label_of[name] for name in group) for group in groups)
    check_once([source.classes[label] for group in labels for label in group])
    return replace(source, groups=labels)


def read_groups(path: Path) -> tuple[tuple[str, ...], ...]:
    """Read the names of each task's classes: one line per task, names separated by commas.

    Empty lines and lines that begin with # are skipped.

    Raises:
        ConfigError: If the file cannot be read, lists fewer than two tasks, a task has fewer than two classes, or a
            class occurs twice.
    """
    try:
        lines = read_small_text(path, MOST_BYTES).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        text = f"grouping: must be a readable text file; got {path} ({reason})"
        raise ConfigError([Refusal("grouping-readable", text)]) from None
    kept = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    groups = tuple(_read_names(line) for line in kept)
    if len(groups) < 2:
        text = f"grouping: must have a line for each of at least two tasks; got {len(groups)} in {path}"
        raise ConfigError([Refusal("grouping-two-tasks", text)])
    if small := [line for line, group in zip(kept, groups, strict=True) if len(group) < 2]:
        text = f"grouping: each task needs at least two classes, separated by commas; got {echo(small[0].strip())}"
        raise ConfigError([Refusal("grouping-two-classes", text)])
    check_once([name for group in groups for name in group])
    return groups


def _read_names(line: str) -> tuple[str, ...]:
    """Split the names of a line at its commas; a name in quotes can have commas, as in CSV. Raises ConfigError."""
    try:
        (words,) = csv.reader([line.strip()], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        rule = 'names are separated by commas; one with a comma or a quote is quoted as in CSV, "a,b" or "the ""best"""'
        raise ConfigError([Refusal("grouping-quotes", f"grouping: {rule}; got {echo(line.strip())}")]) from None
    return tuple(compose_accents(name) for word in words if (name := word.strip()))


def check_once(names: list[str]) -> None:
    """Raise ConfigError if a class occurs twice, by the same name or by its name and its number."""
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        text = f"grouping: each class must occur at most once; got {', '.join(twice)} more than once"
        raise ConfigError([Refusal("grouping-classes-once", text)])


def class_counts(config: BenchmarkConfig) -> list[int]:
    """Count the classes of each task."""
    source = config.source
    if config.kind is not TaskConstruction.SPLIT:
        return [len(source.classes)] * config.tasks
    if source.groups is not None:
        return [len(group) for group in source.groups]
    return list(config.classes_per_task or map(len, np.array_split(range(len(source.classes)), config.tasks)))
