"""What a study is: what study.json says of it, and must say again where it is gone on with."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clsearch.common.errors import ConfigError
from clsearch.common.formatting import relative_path
from clsearch.data.datasets import Source
from clsearch.methods.registry import digest_source
from clsearch.planning.options import Protocol
from clsearch.planning.plan import Plan

STUDY, COMPARISON, FINAL = "study.json", "comparison.json", "final.json"
"""Files of the folders of a study and of a comparison; the last where test data was opened."""

RAY = "ray"
"""Ray Tune's folder in a study's."""

MAY_CHANGE = ("question", "references", "trials", "report_seeds")
"""What a study may be gone on with otherwise than it was begun."""


def description(plan: Plan) -> dict[str, Any]:
    """What study.json says of a study, as JSON has it."""
    content = {
        "question": plan.question,
        "algorithm": plan.algorithm,
        "command": plan.command,
        "config": {k: v for k, v in plan.config.flat().items() if k not in plan.space},
        "space": {name: asdict(r) for name, r in plan.space.items()},
        "data": described(plan.config.source),
        "regularizers": digest_source(plan.config),
        "preset": plan.options.preset,
        "references": plan.references,
        "protocol": plan.protocol.value,
        "tasks": plan.tasks,
        "learning_rates": plan.rates if plan.protocol is Protocol.CONTINUAL else None,
        "report_benchmark": None if plan.report is None else plan.report.benchmark,
        "reported_tasks": plan.reported,
        "objectives": plan.objectives,
        "trials": plan.trials,
        "seeds": plan.seeds,
        "report_seeds": plan.report_seeds if plan.options.final else [],
        "sampler": plan.options.sampler,
        "sampler_seed": plan.options.sampler_seed,
        "pruner": plan.options.pruner.value,
    }
    return dict(json.loads(json.dumps(finite(content))))


def described(source: Source) -> dict[str, Any]:
    """What study.json says of the data: which it is, and where the user grouped its classes, how."""
    groups = source.groups and [[source.classes[c] for c in group] for group in source.groups]
    return {
        "source": source.name,
        "shape": list(source.shape),
        "classes": list(source.classes),
        "groups": groups,
        "identity": source.identity or None,
    }


def study_at(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a study and its study.json; a bare name may be of one in results/. Raises ConfigError."""
    bare = len(folder.parts) == 1 and not folder.exists()
    folder = (Path("results") / folder if bare else folder).resolve()
    study = stored(folder / STUDY)
    if study and "id" in study:
        return folder, study
    problem = f"results: must be the folder of a study, results/<study>; got {relative_path(folder)}"
    if compared := (stored(folder / COMPARISON) or {}).get("studies"):
        others = ", ".join(relative_path(folder.parent / name) for name in compared.values())
        problem += f", a comparison of {others}: name one of them, or open {relative_path(folder)}/comparison.html"
    raise ConfigError([problem])


class Bounds(dict[str, Any]):
    """A range, as study.json has it."""

    def __str__(self) -> str:
        return f"{self['low']:g} to {self['high']:g}{' (log)' if self['log'] else ''}"


def stored(path: Path) -> dict[str, Any] | None:
    """A file of JSON; None where there is none, nothing where it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def finite(content: Any) -> Any:
    """Content for JSON: NaN and infinity become null."""
    if isinstance(content, dict):
        return {k: finite(v) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [finite(v) for v in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


JOURNAL = "optuna.journal"
