"""study.json: the description of a study, which must stay the same on resume."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.formatting import relative_path
from clsearch.data.datasets import Source
from clsearch.methods.registry import digest_backbone, digest_source
from clsearch.planning.options import Protocol
from clsearch.planning.plan import Plan
from clsearch.records.json_types import BestJson, DataJson, DescriptionJson, FinalJson, RangeJson, StudyJson

STUDY, COMPARISON, BEST, FINAL = "study.json", "comparison.json", "best.json", "final.json"
"""Files of the folders of a study and of a comparison; the last one exists if test data were opened."""

RAY = "ray"
"""Ray Tune's folder in a study's folder."""

JOURNAL = "optuna.journal"
"""Optuna's record of a search, in a study's folder."""

ENDED = ("finished", "pruned", "failed")
"""Terminal trial states."""

FIRST_TASKS = ".prefixes"
"""Folder next to the studies in which trials share the first task."""

MAY_CHANGE = ("question", "references", "trials", "report_seeds")
"""Settings that may change on resume."""


def description(plan: Plan) -> DescriptionJson:
    """Return the description of a study in study.json, as plain JSON values."""
    content = {
        "question": plan.question,
        "algorithm": plan.algorithm,
        "command": plan.command,
        "config": {k: v for k, v in plan.config.flat().items() if k not in plan.space},
        "space": space_json(plan),
        "data": describe_source(plan.config.source),
        "regularizers": digest_source(plan.config),
        "backbone_code": digest_backbone(plan.config),
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
    return cast(DescriptionJson, json.loads(json.dumps(finite(content))))


def space_json(plan: Plan) -> dict[str, RangeJson]:
    """Return the searched ranges of a plan for study.json."""
    return {name: {"low": r.low, "high": r.high, "log": r.log} for name, r in plan.space.items()}


def describe_source(source: Source) -> DataJson:
    """Return the identity of the data for study.json, and the user's grouping of its classes, if any."""
    groups = None if source.groups is None else [[source.classes[c] for c in group] for group in source.groups]
    return {
        "source": source.name,
        "shape": list(source.shape),
        "classes": list(source.classes),
        "groups": groups,
        "identity": source.identity or None,
    }


def study_at(folder: Path) -> tuple[Path, StudyJson]:
    """Return the folder of a study and its study.json; look for a bare name in results/ too. Raises ConfigError."""
    bare = len(folder.parts) == 1 and not folder.exists()
    folder = (Path("results") / folder if bare else folder).resolve()
    study = read_study_json(folder)
    if study and "id" in study:
        return folder, study
    problem = f"results: must be the folder of a study, results/<study>; got {relative_path(folder)}"
    if compared := (stored(folder / COMPARISON) or {}).get("studies"):
        others = ", ".join(relative_path(folder.parent / name) for name in compared.values())
        problem += f", a comparison of {others}: name one of them, or open {relative_path(folder)}/comparison.html"
    raise ConfigError([Refusal("study-folder", problem)])


def show_range(bounds: RangeJson) -> str:
    """Format a range of study.json."""
    return f"{bounds['low']:g} to {bounds['high']:g}{' (log)' if bounds['log'] else ''}"


def read_study_json(folder: Path) -> StudyJson | None:
    """Read study.json of a folder; None if it does not exist, and without `id` if it holds something else."""
    return cast("StudyJson | None", stored(folder / STUDY))


def read_best_json(folder: Path) -> BestJson:
    """Read best.json of a study's folder; empty if its search has not ended."""
    return cast(BestJson, stored(folder / BEST) or {})


def read_final_json(folder: Path) -> FinalJson | None:
    """Read final.json of a study's folder; None if no final evaluation was completed."""
    content = stored(folder / FINAL)
    return cast(FinalJson, content) if content and content.get("rows") else None


def stored(path: Path) -> dict[str, Any] | None:
    """Read a JSON file; None if it does not exist, {} if it is not a JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def finite(content: Any) -> Any:
    """Convert content for JSON: NaN and infinity become null."""
    if isinstance(content, dict):
        return {k: finite(v) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [finite(v) for v in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
