"""What the JSON files of results/ hold. Their keys are the format: a study made before reads the same."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class RangeJson(TypedDict):
    """A range that is searched."""

    low: float
    high: float
    log: bool


class DataJson(TypedDict):
    """Which data a study is of. groups: names of the classes of each task, where the user grouped them. identity: a
    digest of a user's own images.
    """

    source: str
    shape: list[int]
    classes: list[str]
    groups: list[list[str]] | None
    identity: str | None


class ProvenanceJson(TypedDict):
    """What made a file. versions: of clsearch, its packages and Python. commit: of the code. started: UTC."""

    versions: dict[str, str]
    commit: str
    started: str


class SessionJson(ProvenanceJson):
    """A process that resumed a study."""

    command: list[str] | None


class DescriptionJson(TypedDict):
    """What a study is, see `study_file.description`."""

    question: str
    algorithm: str
    command: list[str] | None
    config: dict[str, Any]
    space: dict[str, RangeJson]
    data: DataJson
    regularizers: str | None
    preset: str | None
    references: list[str]
    protocol: str
    tasks: list[int]
    learning_rates: list[float] | None
    report_benchmark: str | None
    reported_tasks: list[int]
    objectives: list[str]
    trials: int
    seeds: list[int]
    report_seeds: list[int]
    sampler: str
    sampler_seed: int
    pruner: str


class StudyJson(DescriptionJson, ProvenanceJson):
    """study.json. state: running, unfinished, finished or failed. resumed: who resumed it."""

    id: str
    state: str
    resumed: list[SessionJson]


class CostJson(TypedDict):
    """See `ranking.Cost`; the last two are missing in studies of old."""

    task_trainings: int
    seconds: float
    shared: NotRequired[int]
    saved: NotRequired[float]


class BestJson(TypedDict, total=False):
    """best.json: what a search ended with. label: of the choice, None without one, and `reason` says why. Of the
    protocol continual: per_task and scores, and no metrics.
    """

    label: str | None
    number: int | None
    reason: str
    values: dict[str, float]
    config: dict[str, Any]
    seeds: list[int]
    metrics: dict[str, float]
    objectives: list[str]
    front: list[str]
    indistinguishable: list[str]
    trials: dict[str, int]
    cost: CostJson
    command: str | None
    references: dict[str, Any]
    per_task: list[dict[str, float]]
    scores: dict[str, float]
    pruning: dict[str, Any]
    importance: dict[str, float]


class OpeningJson(TypedDict):
    """A line of the ledger of test data, see `test_ledger.Opening`."""

    data: str
    when: str
    study: str
    algorithm: str
    values: dict[str, Any]
    seeds: list[int]
    before: int


class SearchedTasksJson(TypedDict):
    """Numbers of the tasks that the search saw, and how many there are."""

    searched: list[int]
    all: int


class SeedsJson(TypedDict):
    """The seeds of the search, and the fresh ones."""

    selecting: list[int]
    reporting: list[int]


class FinalRowJson(TypedDict):
    """A configuration in final.json, see `evaluation.EvaluatedConfiguration`. validation, test: metric -> interval."""

    configuration: str
    algorithm: str
    on: str
    benchmark: str
    tasks: list[int]
    config: dict[str, Any]
    per_task: list[dict[str, float]]
    seconds: float
    reason: str
    validation: dict[str, Any]
    test: dict[str, Any]
    unlearning: NotRequired[dict[str, Any]]


class OpeningsJson(TypedDict):
    """final.json while an evaluation runs, or where none ended: no rows."""

    openings: list[OpeningJson]
    rows: list[FinalRowJson]


class FinalJson(OpeningsJson):
    """final.json of an evaluation that ended, see `evaluation.FinalEvaluation`."""

    protocol: str
    choice: dict[str, Any]
    tasks: SearchedTasksJson
    seeds: SeedsJson
    optimism: list[dict[str, Any]]
    seconds: float


class RecordJson(TypedDict):
    """record.json of a trial, see `trials.TrialRecord`, whose `reported` is `told` here."""

    label: str
    number: int | None
    algorithm: str
    values: dict[str, float]
    settings: dict[str, Any]
    seeds: list[int]
    state: str
    reason: str
    tasks_learned: int
    seconds: float
    shared_seconds: float
    metrics: dict[str, float]
    accuracy: list[Any]
    unlearning: dict[str, Any]
    times: list[int]
    told: int
    restarts: int
    place: str
    cohort: int
