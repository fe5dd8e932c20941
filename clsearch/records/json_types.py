"""Types of the JSON files in results/. Their keys are the file format, which older studies share.

Files are checked against them when they are read, see `common.checked_files`, which adds `format` and `digest`. A key
that files of 0.1 do not have is NotRequired.
"""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from clsearch.config.plain_values import Plain

MatricesJson = list[list[list[float | None]]]
"""R of each seed, [M][T+1][T]; null if not measured."""


class DomainJson(TypedDict):
    """A searched domain: the ends of a range, or choices; see `config.domains`.

    Attributes:
        whole: True for whole numbers.
        choices: Plain values; widths of layers as lists.
        name: The hyperparameter, if the key is another.
        when: Hyperparameter -> the values with which this one applies.
    """

    low: NotRequired[float]
    high: NotRequired[float]
    log: NotRequired[bool]
    step: NotRequired[float]
    whole: NotRequired[bool]
    choices: NotRequired[list[Any]]
    name: NotRequired[str]
    when: NotRequired[dict[str, list[Any]]]


class DataJson(TypedDict):
    """The data of a study.

    Attributes:
        groups: Names of the classes of each task, if the user grouped them.
        identity: A digest of a user's own images.
    """

    source: str
    shape: list[int]
    classes: list[str]
    groups: list[list[str]] | None
    identity: str | None


class ComparisonJson(TypedDict):
    """comparison.json: what is read back of it. studies: label -> name of the study."""

    kind: NotRequired[str]
    studies: dict[str, str]


class ProvenanceJson(TypedDict):
    """The origin of a file.

    Attributes:
        versions: Of clsearch, its packages and Python.
        commit: Commit of the code.
        started: UTC.
    """

    versions: dict[str, str]
    commit: str
    started: str


class SessionJson(ProvenanceJson):
    """A process that resumed a study."""

    command: list[str] | None


class SeedExtensionJson(TypedDict):
    """Seeds that a study got after it began, see `planning.plan.SeedExtension`."""

    seeds: list[int]
    all: bool


class EnqueuedJson(TypedDict):
    """A configuration that is tried first, see `planning.enqueued.Enqueued`."""

    values: dict[str, Plain]
    origin: str


class WarmStartJson(TypedDict):
    """The study that a study was started from, see `planning.enqueued.WarmStart`."""

    study: str
    id: str
    top: int


class DescriptionJson(TypedDict):
    """The description of a study, see `study_file.description`.

    Attributes:
        regularizers, backbone_code: Digests of the user's own code; older studies have the first in another form and do
            not have the second.
    """

    question: str
    algorithm: str
    command: list[str] | None
    config: dict[str, Any]
    space: dict[str, DomainJson]
    data: DataJson
    regularizers: NotRequired[str | None]
    backbone_code: NotRequired[str | None]
    preset: NotRequired[str | None]
    references: list[str]
    protocol: str
    tasks: list[int]
    learning_rates: NotRequired[list[float] | None]
    report_benchmark: str | None
    reported_tasks: list[int]
    objectives: list[str]
    trials: int
    seeds: list[int]
    report_seeds: list[int]
    sampler: str
    sampler_seed: int
    pruner: str
    constraints: NotRequired[dict[str, float] | None]
    hours: NotRequired[float | None]
    patience: NotRequired[int | None]
    enqueued: NotRequired[list[EnqueuedJson]]
    warm_start: NotRequired[WarmStartJson]
    more_seeds: NotRequired[list[SeedExtensionJson]]


class StudyJson(DescriptionJson, ProvenanceJson):
    """study.json.

    Attributes:
        name: The name of its folder when it last ran; older studies have none.
        state: running, unfinished, finished or failed.
        resumed: The processes that resumed the study.
        patience_from: Number of trials that had ended when the study got more trials.
    """

    id: str
    name: NotRequired[str]
    state: str
    resumed: list[SessionJson]
    patience_from: NotRequired[int]


class CostJson(TypedDict):
    """See `ranking.Cost`; older studies do not have the last two."""

    task_trainings: int
    seconds: float
    shared: NotRequired[int]
    saved: NotRequired[float]


class BestJson(TypedDict, total=False):
    """best.json: the result of a search.

    Attributes:
        label: The label of the choice; None if there is none.
        reason: Why there is no choice.
        search_end: Why the search ended before all trials.
        per_task, scores: Only with protocol continual, instead of metrics.
        importance, conditional_importance: See `importances.Importances`; the second with conditional hyperparameters.
    """

    label: str | None
    number: int | None
    reason: str
    search_end: str
    values: dict[str, Plain]
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
    conditional_importance: dict[str, float]


class ChosenJson(TypedDict):
    """What best.json has if the search chose a trial."""

    label: str
    number: int
    values: dict[str, Plain]
    config: dict[str, Any]
    seeds: list[int]
    metrics: dict[str, float]
    objectives: list[str]
    trials: dict[str, int]
    cost: CostJson


class ChosenPerTaskJson(TypedDict):
    """What best.json has with protocol continual."""

    per_task: list[dict[str, float]]


class OpeningJson(TypedDict):
    """A line of the ledger of test data, see `test_ledger.Opening`."""

    data: str
    when: str
    study: str
    algorithm: str
    values: dict[str, Any]
    seeds: list[int]
    before: int
    also: NotRequired[list[str]]


class SearchedTasksJson(TypedDict):
    """Numbers of the tasks of the search, and the number of all tasks."""

    searched: list[int]
    all: int


class SeedsJson(TypedDict):
    """The seeds of the search, and the fresh ones."""

    selecting: list[int]
    reporting: list[int]


class ChoiceJson(TypedDict):
    """See `ranking.Choice`."""

    label: str
    values: dict[str, Plain]
    scores: dict[str, float]
    per_task: list[dict[str, float]]


class FinalRowJson(TypedDict):
    """A configuration in final.json, see `evaluation.EvaluatedConfiguration`.

    Attributes:
        validation, test: Metric -> interval.
    """

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
    """final.json while an evaluation runs, or if none was completed: no rows."""

    openings: list[OpeningJson]
    rows: list[FinalRowJson]


class FinalJson(OpeningsJson):
    """final.json of a completed evaluation, see `evaluation.FinalEvaluation`.

    Attributes:
        tables: Digests of the tables that belong to it, by name.
    """

    protocol: str
    choice: ChoiceJson
    tasks: SearchedTasksJson
    seeds: SeedsJson
    optimism: list[dict[str, Any]]
    seconds: float
    tables: NotRequired[dict[str, str]]


class RecordJson(TypedDict):
    """record.json of a trial, see `trials.TrialRecord`, whose `reported` is called `told` here."""

    label: str
    number: int | None
    algorithm: str
    values: dict[str, Plain]
    settings: dict[str, Any]
    seeds: list[int]
    state: str
    reason: str
    tasks_learned: int
    seconds: float
    shared_seconds: NotRequired[float]
    metrics: dict[str, float]
    accuracy: MatricesJson
    unlearning: NotRequired[dict[str, MatricesJson]]
    times: NotRequired[list[int]]
    told: NotRequired[int]
    restarts: NotRequired[int]
    place: NotRequired[str]
    cohort: NotRequired[int]
    tables: NotRequired[dict[str, str]]
    origin: NotRequired[str]
    given: NotRequired[list[str]]
    groups: NotRequired[list[int]]


class AttemptJson(TypedDict):
    """An attempt of the protocol continual, see `attempts.Attempt`."""

    task: int
    phase: str
    values: dict[str, Plain]
    accuracies: list[float]
    bar: float | None
    seeds: int
    seconds: float
    kept: bool
    when: int


class AttemptsJson(TypedDict):
    """attempts.json: all attempts so far."""

    attempts: list[AttemptJson]
