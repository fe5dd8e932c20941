"""Which source a configuration's settings name: a row of the table or the user's own images, grouped as they ask; how
its classes are spread over tasks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from clsearch.common.errors import ConfigError
from clsearch.config.sections import BENCHMARKS, FOLDER, BenchmarkConfig, Kind
from clsearch.data.datasets import SOURCES, Source, folder_source


def source_of(settings: dict[str, Any]) -> Source | None:
    """The source of flat settings, grouped as they ask (by names of classes, or by their numbers from 0); None where
    the benchmark's own rules refuse them.

    Raises ConfigError for images or a grouping that cannot be used.
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
    place = {str(label): label for label in range(len(source.classes))}
    place |= {name: label for label, name in enumerate(source.classes)}
    if unknown := [name for group in groups for name in group if name not in place]:
        known = ", ".join(source.classes[:20]) + (", ..." if len(source.classes) > 20 else "")
        raise ConfigError([f"grouping: must name classes of {config.benchmark}, {known}; got {', '.join(unknown)}"])
    labels = tuple(tuple(place[name] for name in group) for group in groups)
    check_once([source.classes[label] for group in labels for label in group])
    return replace(source, groups=labels)


def read_groups(path: Path) -> tuple[tuple[str, ...], ...]:
    """Names of each task's classes: a line per task, names between commas; empty lines and those with # are left out.

    Raises ConfigError where the file cannot be read, has under two tasks, a task has under two classes, or a class
    comes twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError([f"grouping: must be a text file that can be read; got {path} ({reason})"]) from None
    kept = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    groups = tuple(tuple(name for word in line.split(",") if (name := word.strip())) for line in kept)
    if len(groups) < 2:
        raise ConfigError([f"grouping: must have a line for each of at least two tasks; got {len(groups)} in {path}"])
    if small := [line for line, group in zip(kept, groups, strict=True) if len(group) < 2]:
        raise ConfigError([f"grouping: each task needs at least two classes, between commas; got {small[0].strip()!r}"])
    check_once([name for group in groups for name in group])
    return groups


def check_once(names: list[str]) -> None:
    """Raises ConfigError where a class comes twice, by the same name or by its name and its number."""
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ConfigError([f"grouping: each class must come at most once; got {', '.join(twice)} more than once"])


def class_counts(config: BenchmarkConfig) -> list[int]:
    """How many classes each task has."""
    source = config.source
    if config.kind is not Kind.SPLIT:
        return [len(source.classes)] * config.tasks
    if source.groups is not None:
        return [len(group) for group in source.groups]
    return list(config.classes_per_task or map(len, np.array_split(range(len(source.classes)), config.tasks)))
