"""study.json: the description of a study, which must stay the same on resume."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from clsearch.common.checked_files import DamagedFile, finite, read_json
from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.formatting import relative_path
from clsearch.common.redaction import clean_values
from clsearch.config.space_parts import show_conditions
from clsearch.config.spaces import SearchSpace
from clsearch.data.datasets import Source
from clsearch.methods.registry import digest_backbone, digest_source
from clsearch.planning.options import Protocol
from clsearch.planning.plan import Plan
from clsearch.planning.samplers import describe_choice
from clsearch.records.json_types import (
    BestJson,
    ChosenJson,
    ChosenPerTaskJson,
    ComparisonJson,
    DataJson,
    DescriptionJson,
    DomainJson,
    FinalJson,
    OpeningsJson,
    RecordJson,
    StudyJson,
)

STUDY, COMPARISON, BEST, FINAL = "study.json", "comparison.json", "best.json", "final.json"
"""Files of the folders of a study and of a comparison; the last one exists if test data were opened."""

RAY = "ray"
"""Ray Tune's folder in a study's folder."""

JOURNAL = "optuna.journal"
"""Optuna's record of a search, in a study's folder."""

RECORD = "record.json"
"""File of a trial's folder."""

ENDED = ("finished", "pruned", "failed")
"""Terminal trial states."""

NO_FILE = "no such file"
"""What is wrong with a file that a finished study has written and that is gone."""

STATES = ("waiting", "running", "unfinished", *ENDED)
"""All trial states."""

FOUND_WITH_TRIALS = ("trials/*", JOURNAL, "attempts.*", "continual*.pt", BEST, FINAL)
"""Patterns of what a study writes after study.json."""

FIRST_TASKS = ".prefixes"
"""Folder next to the studies in which trials share the first task."""

MAY_CHANGE: tuple[str, ...] = ("question", "references", "trials", "report_seeds", "hours", "patience")
MAY_CHANGE += ("enqueued", "warm_start", "more_seeds")
"""Settings that may change on resume."""


def description(plan: Plan) -> DescriptionJson:
    """Return the description of a study in study.json, as plain JSON values."""
    content = {
        "question": plan.question,
        "algorithm": plan.algorithm,
        "command": plan.command,
        "config": {k: v for k, v in plan.config.flat().items() if k not in plan.space} | plan.fallbacks,
        "space": plan.space.as_json(),
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
        "sampler": describe_choice(plan.options.sampler),
        "sampler_seed": plan.options.sampler_seed,
        "pruner": describe_choice(plan.options.pruner),
        "constraints": plan.constraints or None,
        "hours": plan.options.hours,
        "patience": plan.options.patience,
    }
    if plan.enqueued:
        content["enqueued"] = [one.as_json() for one in plan.enqueued]
    if plan.warm_start is not None:
        content["warm_start"] = asdict(plan.warm_start)
    if plan.further:
        content["more_seeds"] = [asdict(extension) for extension in plan.further]
    return cast(DescriptionJson, json.loads(json.dumps(finite(content))))


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
    if study is not None:
        return folder, study
    problem = f"results: must be the folder of a study, results/<study>; got {relative_path(folder)}"
    if has_lost_study_json(folder):
        problem += f", which has trials and no {STUDY}: put it back from a copy"
    elif compared := read_comparison_json(folder):
        others = ", ".join(relative_path(folder.parent / name) for name in compared["studies"].values())
        problem += f", a comparison of {others}: name one of them, or open {relative_path(folder)}/comparison.html"
    raise ConfigError([Refusal("study-folder", problem)])


def show_domain(entry: DomainJson) -> str:
    """Write a searched domain of study.json, with its conditions."""
    (part,) = SearchSpace.from_json({"": entry}).parts
    return f"{part.domain}{show_conditions(part)}"


def read_study_json(folder: Path) -> StudyJson | None:
    """Read study.json of a folder, without secrets; None if it does not exist. Raises DamagedFile."""
    return cast("StudyJson | None", clean_values(read_json(folder / STUDY, StudyJson)))


def has_lost_study_json(folder: Path) -> bool:
    """Return True if a folder has what a study writes and no study.json."""
    return not (folder / STUDY).exists() and any(next(folder.glob(name), None) for name in FOUND_WITH_TRIALS)


def read_comparison_json(folder: Path) -> ComparisonJson | None:
    """Read comparison.json of a folder; None if it does not exist. Raises DamagedFile."""
    return read_json(folder / COMPARISON, ComparisonJson)


def read_best_json(folder: Path, expected: bool = False) -> BestJson:
    """Read best.json of a study's folder; empty if its search has not ended.

    Raises:
        DamagedFile: It is damaged, or missing although it is expected.
    """
    content = read_json(folder / BEST, BestJson)
    if expected and not content:
        raise DamagedFile(folder / BEST, NO_FILE)
    if content and content.get("label") is not None:
        read_json(folder / BEST, ChosenPerTaskJson if content["label"] == "continual" else ChosenJson)
    return content or {}


def read_openings_json(folder: Path) -> OpeningsJson | None:
    """Read final.json of a study's folder, complete or not; None if it does not exist. Raises DamagedFile."""
    return read_json(folder / FINAL, OpeningsJson)


def read_final_json(folder: Path, expected: bool = False) -> FinalJson | None:
    """Read final.json of a study's folder; None if no final evaluation was completed.

    Raises:
        DamagedFile: It is damaged, or missing although it is expected.
    """
    content = read_openings_json(folder)
    if expected and content is None:
        raise DamagedFile(folder / FINAL, NO_FILE)
    return read_json(folder / FINAL, FinalJson) if content and content["rows"] else None


@dataclass(frozen=True)
class FoundRecords:
    """The records of a study's trials and references.

    Attributes:
        whole: Label -> content of record.json.
        damaged: The others.
    """

    whole: dict[str, RecordJson]
    damaged: tuple[DamagedFile, ...]


def read_records(folder: Path, objectives: Sequence[str], pattern: str = "*") -> FoundRecords:
    """Read the record.json of trials and references of a study.

    Args:
        folder: The study's folder.
        objectives: The metrics that a finished trial must have.
        pattern: Matches the labels of the trials to read.
    """
    whole, damaged = {}, []
    for path in sorted(folder.glob(f"trials/{pattern}/{RECORD}")):
        try:
            if (content := read_json(path, RecordJson)) is not None:
                if problem := problem_of_record(path.parent.name, content, objectives):
                    raise DamagedFile(path, problem)
                whole[path.parent.name] = content
        except DamagedFile as error:
            damaged.append(error)
    return FoundRecords(whole, tuple(damaged))


def problem_of_record(label: str, content: RecordJson, objectives: Sequence[str]) -> str:
    """Return what is wrong with a record.json that the types of its keys do not say; "" if nothing is."""
    M, R = len(content["seeds"]), content["accuracy"]
    parts = (R, *content.get("unlearning", {}).values())
    shapes = {(len(matrix), len(row)) for part in parts for matrix in part for row in matrix}
    ranked = content["state"] == "finished" and content["number"] is not None
    missing = [name for name in objectives if ranked and name not in content["metrics"]]
    if content["label"] != label:
        return f"key label: {content['label']}"
    if content["state"] not in STATES:
        return f"key state: {content['state']}"
    if len(shapes) > 1 or len(R) not in (0, M):
        return f"key accuracy: other than one matrix for each of {M} seeds"
    if ranked and not R:
        return "key accuracy: none of a finished trial"
    if content["tasks_learned"] < 0 or any(content["tasks_learned"] >= rows for rows, _ in shapes):
        return f"key tasks_learned: {content['tasks_learned']}"
    return f"key metrics.{missing[0]}: missing" if missing else ""
