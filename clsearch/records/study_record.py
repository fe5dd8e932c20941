"""Read a study back from results/<study>."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from clsearch.common.checked_files import DamagedFile
from clsearch.common.echo import ShortRepr
from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.formatting import relative_path
from clsearch.config.spaces import SearchSpace
from clsearch.config.unlearning import Requests, parse_requests
from clsearch.records.attempts import Decision, read_progress
from clsearch.records.evaluation import FinalEvaluation
from clsearch.records.evaluation_file import read_final, recorded_openings
from clsearch.records.json_types import BestJson, StudyJson
from clsearch.records.ranking import Ranking, rank
from clsearch.records.study_file import NO_FILE, RECORD, read_best_json, study_at
from clsearch.records.test_ledger import Opening
from clsearch.records.trial_metrics import unlearning_measurements
from clsearch.records.trials import TrialRecord, read_trials_and_damage

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class StudyRecord(ShortRepr):
    """The content of a study's folder.

    Attributes:
        folder: The folder.
        study: study.json.
        trials: The records of its trials.
        references: The records of its references.
        best: best.json, {} if the search has not ended.
        decision: The decisions of the protocol continual.
        openings: The openings of test data.
        final: The final evaluation of the present choice; None if none was completed.
        damaged: Files that cannot be read; what they hold is left out above.
    """

    folder: Path
    study: StudyJson
    trials: list[TrialRecord]
    references: list[TrialRecord]
    best: BestJson
    decision: Decision
    openings: tuple[Opening, ...]
    final: FinalEvaluation | None
    damaged: tuple[DamagedFile, ...] = ()

    @property
    def name(self) -> str:
        """The study's name."""
        return self.folder.name

    @cached_property
    def space(self) -> SearchSpace:
        """The search space."""
        return SearchSpace.from_json(self.study["space"])

    @property
    def objective(self) -> str:
        """The first metric that trials are ranked by."""
        return str(self.study["objectives"][0])

    @property
    def constraints(self) -> dict[str, float]:
        """Metric -> the value that a trial must keep to be chosen."""
        return self.study.get("constraints") or {}

    @cached_property
    def ranking(self) -> Ranking:
        """The ranking of the finished trials; empty if the chosen one is lost: the next one is not the answer."""
        return rank([] if self.lost_choice else self.trials, tuple(self.study["objectives"]), self.constraints)

    @property
    def chosen(self) -> TrialRecord | None:
        """The best trial so far."""
        return self.ranking.best

    @property
    def lost_choice(self) -> str:
        """The label of the chosen trial in best.json if its record is missing or damaged, else ""."""
        label = self.best.get("label")
        known = "per_task" in self.best or label in {record.label for record in self.trials}
        return "" if label is None or known else label

    def in_state(self, state: str) -> list[TrialRecord]:
        """Return the trials in a state."""
        return [record for record in self.trials if record.state == state]

    def reference(self, algorithm: str) -> TrialRecord | None:
        """Return the record of a finished reference; None if there is none."""
        own = [r for r in self.references if base_algorithm(r.algorithm) == algorithm and r.state == "finished"]
        return own[0] if own else None

    @cached_property
    def matrices(self) -> dict[str, np.ndarray]:
        """R [M, T+1, T] of the chosen configuration (`chosen`) and of references.

        They are measured on test data if there is a final evaluation, else on the search's validation data.
        """
        if self.final is not None:
            rows = [row for row in self.final.rows if row.on == "full_sequence" and not row.reason]
            return {base_algorithm(row.configuration): row.test for row in rows}
        own = [] if self.chosen is None else [("chosen", self.chosen)]
        own += self._references().items()
        return {name: np.array(record.accuracy, dtype=float) for name, record in own}

    @cached_property
    def complete_matrices(self) -> dict[str, np.ndarray]:
        """The same, with the accuracy on unlearned tasks."""
        if self.final is not None:
            rows = {base_algorithm(row.configuration): row for row in self.final.rows if row.on == "full_sequence"}
            found = {name: row.unlearning.get("test", {}) for name, row in rows.items()}
        else:
            of = {} if self.chosen is None else {"chosen": self.chosen}
            found = {name: unlearning_measurements(r) for name, r in (of | self._references()).items()}
        return {name: found[name]["after"] if found[name] else R for name, R in self.matrices.items()}

    def _references(self) -> dict[str, TrialRecord]:
        return {base_algorithm(r.algorithm): r for r in self.references if r.state == "finished"}

    @property
    def requests(self) -> Requests:
        """The unlearning requests."""
        return parse_requests(tuple(self.study["config"].get("unlearn") or ()))

    @property
    def measured_on(self) -> str:
        """A description of the data that the matrices were measured on."""
        if self.final is not None:
            return f"test data, {len(self.final.seeds)} fresh seeds"
        seeds = len(self.study["seeds"] if self.chosen is None else self.chosen.seeds)
        return f"validation data, the search's {seeds} seed{'s' * (seeds > 1)}"


def base_algorithm(algorithm: str) -> str:
    """Return an algorithm's name without its ability to unlearn: figures show such references alike."""
    return algorithm.removeprefix("amnesiac_")


def read_study(folder: Path) -> StudyRecord:
    """Read a study from its folder, ended or not, without what is damaged.

    Raises:
        ConfigError: There is none, or study.json is damaged.
    """
    folder, study = study_at(folder)
    whole, damaged = read_trials_and_damage(folder, study["objectives"])
    records = list(whole.values())
    progress = read_progress(folder, study["seeds"], study["tasks"])
    finished = study["state"] == "finished"
    best, *about_best = read_or_damage(partial(read_best_json, folder, finished), BestJson())
    openings, *about_openings = read_or_damage(partial(recorded_openings, folder), tuple[Opening, ...]())
    expected = finished and bool(study["report_seeds"])
    final, *about_final = (None,) if about_openings else read_or_damage(partial(read_final, folder, expected), None)
    damaged += find_lost_records(folder, study) if finished else ()
    if about_best and progress.tasks == len(study["tasks"]):
        best = BestJson(per_task=[attempt.values for attempt in Decision(progress.attempts).kept])
    wanted = {name: place for place, name in enumerate(study["references"])}
    references = [record for record in records if record.number is None]
    found = StudyRecord(
        folder=folder,
        study=study,
        trials=sorted((r for r in records if r.number is not None), key=lambda r: r.label),
        references=sorted(references, key=lambda r: wanted.get(r.algorithm, len(wanted))),
        best=best,
        decision=Decision(progress.attempts),
        openings=openings,
        final=final,
        damaged=(*damaged, *progress.damaged, *about_best, *about_openings, *about_final),
    )
    return found if found.final is None or evaluates_choice(found.final, found) else replace(found, final=None)


def find_lost_records(folder: Path, study: StudyJson) -> tuple[DamagedFile, ...]:
    """Find the trials and references of a finished study that have no record any more."""
    labels = {path.name for path in folder.glob("trials/*") if path.is_dir()}
    labels |= {f"reference_{name}" for name in study["references"]} if labels else set()
    paths = [folder / "trials" / label / RECORD for label in sorted(labels)]
    return tuple(DamagedFile(path, NO_FILE) for path in paths if not path.exists())


def read_or_damage(read: Callable[[], T], instead: T) -> tuple[Any, ...]:
    """Return what is read; or `instead` and the damage."""
    try:
        return (read(),)
    except DamagedFile as damage:
        return instead, damage


def evaluates_choice(final: FinalEvaluation, study: StudyRecord) -> bool:
    """Return True if a final evaluation is of the present choice; a study that was extended can have another one by
    now.
    """
    if study.best.get("per_task"):
        return list(final.choice.per_task) == study.best["per_task"]
    if study.lost_choice:
        return (final.choice.label, final.choice.values) == (study.lost_choice, study.best["values"])
    best = study.chosen
    return best is not None and (final.choice.label, final.choice.values) == (best.label, best.values)


def find_record(study: StudyRecord, trial: str) -> TrialRecord:
    """Find a trial by its number, with or without `#`, or a reference by its algorithm. Raises ConfigError."""
    trial = trial.removeprefix("#")
    for record in (*study.trials, *study.references):
        if trial in (str(record.number), record.label) or (record.number is None and trial == record.algorithm):
            return record
    labels = (f"trial_{trial:0>5}", f"reference_{trial}", trial)
    for damage in study.damaged:
        if damage.path.name == RECORD and damage.path.parent.name in labels:
            raise damage
    numbers = [record.number for record in study.trials if record.number is not None]
    known = [f"{min(numbers)} to {max(numbers)}"] * bool(numbers) + [r.algorithm for r in study.references]
    text = f"trial: must be one of {relative_path(study.folder)}: {', '.join(known) or 'it has none'}; got {trial}"
    raise ConfigError([Refusal("trial-known", text)])
