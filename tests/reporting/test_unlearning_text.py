"""What a study of unlearning is refused for, asks of its parts, and says in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clsearch import Choice, LogRange, Range, Study, When
from clsearch.execution import dry_run
from clsearch.planning.plan import Plan
from clsearch.records.ranking import rank
from clsearch.records.trials import TrialRecord
from clsearch.reporting.evaluation_table import format_row
from clsearch.reporting.unlearning_text import describe_trade_off, describe_unlearning, join_tasks, request_effects
from tests.builders import final_of, measured_of, plan_of, planned, record_of, study_of
from tests.refusals import broken, refusals

BOTH = ("average_accuracy", "unlearning/distance")
SPACE = {"distillation_factor": LogRange(0.1, 10), "distillation_temperature": LogRange(0.5, 8)}


def study(algorithm: str = "amnesiac_lwf", **settings: object) -> Study:
    own = {"space": SPACE, "unlearn": {2: 1}} | settings
    return study_of(algorithm, **own)


# What is refused


@pytest.mark.parametrize(
    ("settings", "field", "rule"),
    [
        ({"unlearn": ()}, "unlearn", "unlearn-needed"),
        ({"unlearn": {2: 3}}, "unlearn", "unlearn-learned-task"),
        ({"protocol": "first_k", "tasks": 5}, "protocol", "unlearning-protocol"),
        ({"references": ("finetuning", "joint")}, "references", "unlearning-references"),
        ({"space": SPACE | {"learning_rate": LogRange(0.01, 1)}}, "learning_rate", "unlearning-one-value"),
        ({"objectives": ("accuracy/task_01",)}, "objectives", "objectives-known"),
        ({"objectives": ("unlearning/unlearned_accuracy",)}, "objectives", "objectives-known"),
        ({"unlearn_memories": "gone"}, "unlearn_memories", "literal-error"),
        ({"unlearning_distance": "far"}, "unlearning_distance", "literal-error"),
    ],
)
def test_what_a_study_of_unlearning_cannot_be_is_refused_when_it_is_made(settings, field, rule):
    assert broken(study, **settings)[0] == (field, rule)


def test_where_one_task_is_left_there_is_no_forgetting(tmp_path):
    (problem,) = refusals(study, tasks=2, objectives=("average_forgetting",))
    assert problem.rule == "objectives-known"
    assert "backward_transfer" not in problem
    plan = plan_of(tmp_path, "amnesiac_lwf", space=SPACE, tasks=2, unlearn={2: 1})
    record = record_of(plan, 0, [0.9, 0.9, 0.9])
    assert "average_forgetting" not in record.metrics
    row = measured_of(plan, [0.9] * 5, [0.9] * 5)
    R = {part: getattr(row, part).copy() for part in ("validation", "test")}
    for matrix in R.values():
        matrix[:, 2, 0] = float("nan")
    row = replace(row, **R)
    assert format_row(final_of(plan, row, scores={"average_accuracy": 0.9}), row)[2] == "–"


def test_other_algorithms_have_no_requests():
    assert broken(study_of, "lwf", unlearn={2: 1}) == [("unlearn", "setting-known")]
    assert {*broken(study_of, "lwf", objectives=BOTH)} == {("objectives", "objectives-known")}


def test_requests_come_from_the_command_line_too(capsys):
    plan = planned(study(), "--unlearn", "3:1", "3:2", "--unlearn-memories", "shift", "--disable-unlearning")
    assert plan.config.requests == {3: (1, 2)}
    assert (plan.config.unlearn_memories, plan.config.disable_unlearning) == ("shift", True)
    with pytest.raises(SystemExit) as refused:
        study().main(["--unlearn", "4:1"])
    assert refused.value.code == 2
    assert "error: unlearn: a request must follow one of the 3 tasks; got 4:1" in capsys.readouterr().err


def test_finetuning_beside_it_has_the_same_requests():
    plan = study().plan
    assert plan.references == ("amnesiac_finetuning",)
    assert plan.trial_config({}, "amnesiac_finetuning").requests == plan.config.requests
    assert study("amnesiac_finetuning", space={}).plan.references == ()


def test_a_dry_run_counts_the_models_to_compare_with(tmp_path):
    plan = plan_of(tmp_path, "amnesiac_lwf", space=SPACE, unlearn={2: 1}, trials=6, final=False, references=())
    pace = dry_run.Pace(step=1.0, task=0.0, seeds=3)
    with_requests = dry_run.time_of(plan, pace, 100, 6, "")
    without = replace(plan, config=plan.config.model_copy(update={"unlearn": ()}))
    assert with_requests != dry_run.time_of(without, pace, 100, 6, "")


# What is said


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of(tmp_path, "amnesiac_lwf", space=SPACE, unlearn={2: 1, 3: 2}, objectives=BOTH)


def with_distance(record: TrialRecord, distance: float, accuracy: float) -> TrialRecord:
    found = {"unlearning/distance": distance, "average_accuracy": accuracy}
    return replace(record, metrics=record.metrics | found)


def test_the_effect_of_each_request_is_read_off_the_matrices(plan):
    record = record_of(plan, 0, [0.9, 0.8, 0.7])
    first, second = request_effects(record, plan.config.requests)
    assert (first.after, first.tasks, first.chance, first.distance) == (2, (1,), 0.5, 3.0)
    assert first.unlearned[0] - first.unlearned[1] == pytest.approx(0.1)
    assert first.retained[0] == first.retained[1]
    assert (second.after, second.tasks, second.distance) == (3, (2,), 4.0)
    assert request_effects(replace(record, tasks_learned=2), plan.config.requests) == [first]
    assert request_effects(replace(record, unlearning={}), plan.config.requests) == []


def test_requests_are_described_in_sentences(plan):
    record, reference = record_of(plan, 0, [0.9, 0.9, 0.9]), record_of(plan, None, [0.5] * 3, algorithm="amnesiac_ewc")
    lines = describe_unlearning(record, plan.config.requests, [with_distance(reference, 7.0, 0.5)])
    assert lines[0] == (
        "After task 2, task 1 unlearned: accuracy from 89.10 to 79.10 % (chance 50.00 %), on the retained tasks from "
        "90.10 to 90.10 %."
    )
    assert lines[1].startswith("After task 3, task 2 unlearned: ")
    assert lines[2] == (
        "Final distance of the features to a model that never saw them: 4.00 (euclidean); AmnesiacEWC: 7.00."
    )
    twin = replace(record, settings=record.settings | {"disable_unlearning": True})
    assert describe_unlearning(twin, plan.config.requests, [])[0] == (
        "After task 2, task 1 would be unlearned: accuracy 89.10 %, chance 50.00 %."
    )


def test_tasks_are_listed_as_people_do():
    assert [join_tasks(own) for own in ((3,), (1, 2), (1, 2, 5))] == ["task 3", "tasks 1 and 2", "tasks 1, 2 and 5"]


def test_the_trade_off_is_described_between_the_ends_of_the_front(plan):
    ends = [(0.90, 2.0), (0.92, 2.5), (0.95, 3.0), (0.80, 2.9), (0.85, 3.5), (0.91, 4.0)]
    records = [
        with_distance(
            record_of(plan, n, [0.9] * 3, {"distillation_factor": 0.1 + n, "distillation_temperature": 1.0}), far, good
        )
        for n, (good, far) in enumerate(ends)
    ]
    ranking = rank(records, BOTH)
    assert set(ranking.front) == {"trial_00000", "trial_00001", "trial_00002"}
    first, second = describe_trade_off(ranking)
    assert first == (
        "Trade-off: from one end of the front to the other, average accuracy goes from 90.00 to 95.00 %, and the "
        "distance from 2.00 to 3.00, 50 % more."
    )
    assert second == "A larger distillation factor goes with more distance (+0.94) (Spearman's rank correlation)."
    (alone,) = describe_trade_off(rank(records[:1], BOTH))
    assert alone == "Trade-off: none among these trials; one trial is best in both average accuracy and distance."
    assert describe_trade_off(rank(records, ("average_accuracy",))) == []


def test_correlations_are_of_numbers_over_the_trials_that_have_them(tmp_path):
    space = [
        {"distance": Choice("cross_entropy", "mse"), "train_head": Choice(True, False)},
        When("distance", "cross_entropy", {"distillation_temperature": Range(1.0, 8.0)}),
        When("distance", "mse", {"distillation_factor": LogRange(0.1, 10)}),
    ]
    plan = plan_of(tmp_path, "amnesiac_lwf", space=space, seeds=2, tasks=4, unlearn={3: 1}, objectives=BOTH)
    records = []
    for n in range(10):
        extra = {"distillation_temperature": 1.0 + n} if n < 6 else {"distillation_factor": 0.1 * n}
        values = {"distance": "cross_entropy" if n < 6 else "mse", "train_head": n % 2 == 0} | extra
        record = record_of(plan, n, [0.5 + 0.01 * n] * 2, values)
        records.append(replace(record, metrics=record.metrics | {"unlearning/distance": 1.0 + 0.1 * n}))
    lines = describe_trade_off(rank(records, BOTH))[1:]
    assert lines == [
        "A larger distillation temperature goes with more average accuracy (+1.00) and more distance (+1.00) "
        "(Spearman's rank correlation in the 6 trials that have it)."
    ]
