"""What a study starts from: the queue that it had before, and the best trials of another study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clsearch import Choice, LogRange, Range, When
from clsearch.planning.plan import Plan
from clsearch.records.known import check_room, start_from_known
from clsearch.records.study_file import read_study_json
from clsearch.records.trials import read_trials
from clsearch.records.writer import StudyWriter
from tests.builders import plan_of, record_of
from tests.refusals import broken
from tests.study_folders import VALUES, small_plan, trials_of, written

BEST_FIRST = [VALUES[n] for n in (2, 3, 1, 0, 4, 5)]
FACTOR = "distillation_factor"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A finished study of six trials, whose third is best."""
    plan = small_plan(tmp_path, name="other")
    return written(plan, trials_of(plan))


def started(results: Path, other: Path, **settings: Any) -> tuple[Plan, list[str]]:
    """A new study that starts from another one: its plan, and the lines about it."""
    said: list[str] = []
    plan = plan_of(results, **({"trials": 8, "warm_start": other} | settings))
    return start_from_known(plan, said.append), said


def queue(plan: Plan) -> list[dict[str, Any]]:
    return [dict(one.values) for one in plan.enqueued]


def test_a_warm_start_takes_the_best_first_and_names_their_study(other: Path, tmp_path: Path) -> None:
    plan, (line,) = started(tmp_path, other, top=3)
    assert queue(plan) == BEST_FIRST[:3]
    assert [one.origin for one in plan.enqueued] == ["other #2", "other #3", "other #1"]
    assert line == "warm start: 3 of 6 finished trials of other are tried first"
    StudyWriter(plan).begin()
    content = read_study_json(plan.folder)
    assert content is not None
    theirs = read_study_json(other)
    assert theirs is not None
    assert content["warm_start"] == {"study": "other", "id": theirs["id"], "top": 3}
    assert [one["values"] for one in content["enqueued"]] == BEST_FIRST[:3]


def test_a_warm_start_takes_as_many_as_there_is_room_for_after_what_is_enqueued(other: Path, tmp_path: Path) -> None:
    mine = {FACTOR: 50.0}
    plan, _ = started(tmp_path, other, trials=3, enqueue=[mine])
    assert queue(plan) == [mine, *BEST_FIRST[:2]]
    assert broken(started, tmp_path, other, trials=3, enqueue=[mine], top=4) == [("enqueue", "enqueue-within-trials")]


def test_it_ranks_by_the_objective_of_the_study_that_starts(other: Path, tmp_path: Path) -> None:
    plan, _ = started(tmp_path, other, objectives=("average_forgetting",), top=1)
    least = min(read_trials(other).values(), key=lambda record: record.metrics["average_forgetting"])
    assert queue(plan) == [least.values]


def test_it_says_what_it_leaves_out_and_takes_what_was_fixed_there(other: Path, tmp_path: Path) -> None:
    space = {FACTOR: LogRange(0.5, 100), "learning_rate": LogRange(0.01, 1)}
    plan, (line,) = started(tmp_path, other, space=space)
    rate = {"learning_rate": 0.1}
    inside = [values[FACTOR] for values in BEST_FIRST]
    expected = [rate | ({FACTOR: value} if value >= 0.5 else {}) for value in inside]
    assert [sorted(values.items()) for values in queue(plan)] == [
        sorted(values.items()) for place, values in enumerate(expected) if values not in expected[:place]
    ]
    assert line == (
        "warm start: 5 of 6 finished trials of other are tried first; left out: distillation_factor of 2 trials, "
        "outside 0.5 to 100 (log); distillation_temperature, not searched here; 1 trial equal to another one"
    )


def test_a_part_that_does_not_apply_is_left_out(tmp_path: Path) -> None:
    wide = [{"optimizer": Choice("sgd", "adam"), FACTOR: LogRange(0.1, 10)}]
    momentum = When("optimizer", "sgd", {"momentum": Range(0, 0.99)})
    source = plan_of(tmp_path, name="source", space=[*wide, momentum], seeds=2)
    values = [
        {"optimizer": "sgd", FACTOR: 1.0, "momentum": 0.5},
        {"optimizer": "adam", FACTOR: 2.0},
    ]
    folder = written(source, [record_of(source, n, [0.9 - n / 10] * 2, one) for n, one in enumerate(values)])
    same, _ = started(tmp_path, folder, space=[*wide, momentum])
    assert queue(same) == values
    plan, (line,) = started(tmp_path, folder, space={FACTOR: LogRange(0.1, 10)}, optimizer="adam")
    assert queue(plan) == [{FACTOR: 1.0}, {FACTOR: 2.0}]
    assert line.endswith("left out: optimizer, momentum, not searched here")


def test_what_is_damaged_is_skipped_with_a_line(other: Path, tmp_path: Path) -> None:
    (other / "trials" / "trial_00002" / "record.json").write_text("{}")
    plan, (first, second) = started(tmp_path, other, top=1)
    assert queue(plan) == [VALUES[3]]
    assert first.startswith("warm start: left out, because it is damaged: ")
    assert "5 finished trials" in second


@pytest.mark.parametrize(
    ("settings", "rules"),
    [
        ({"benchmark": "permuted-digits"}, ["warm-start-same"] * 2),  # and its scenario
        ({"scenario": "class"}, ["warm-start-same"]),
        ({"algorithm": "lwf_ewc"}, ["warm-start-same"]),
    ],
)
def test_another_question_is_refused_unless_it_is_wanted(
    other: Path, tmp_path: Path, settings: dict[str, Any], rules: list[str]
) -> None:
    assert broken(started, tmp_path, other, **settings) == [("warm_start", rule) for rule in rules]
    plan, _ = started(tmp_path, other, anyway=True, top=1, **settings)
    assert queue(plan) == [VALUES[2]]


def test_what_has_nothing_to_start_from_is_refused(other: Path, tmp_path: Path) -> None:
    assert broken(started, tmp_path, tmp_path / "none") == [("warm_start", "study-folder")]
    begun = small_plan(tmp_path, name="begun")
    assert broken(started, tmp_path, written(begun, [], state="running")) == [("warm_start", "warm-start-agrees")]
    momentum = {"momentum": Range(0.5, 0.9)}
    assert broken(started, tmp_path, other, space=momentum) == [("warm_start", "warm-start-agrees")]
    assert broken(started, tmp_path, other, name="other") == [("warm_start", "warm-start-other")]
    assert broken(started, tmp_path, other, trials=None, sampler="grid") == [("warm_start", "enqueue-not-in-grid")]


def test_a_study_that_is_resumed_has_the_queue_that_it_had_and_what_is_new(other: Path, tmp_path: Path) -> None:
    plan, _ = started(tmp_path, other, top=2, enqueue=[{FACTOR: 50.0}])
    StudyWriter(plan).begin()
    other.rename(tmp_path / "moved")
    for settings in ({}, {"top": 2, "warm_start": other}, {"warm_start": other}, {"enqueue": [{FACTOR: 50.0}]}):
        said: list[str] = []
        resumed = start_from_known(plan_of(tmp_path, trials=8, **settings), said.append)
        assert (resumed.enqueued, resumed.warm_start, said) == (plan.enqueued, plan.warm_start, [])
    longer = start_from_known(plan_of(tmp_path, trials=8, enqueue=[{FACTOR: 60.0}, {FACTOR: 50.0}]), print)
    assert queue(longer) == [*queue(plan), {FACTOR: 60.0}]
    more = start_from_known(plan_of(tmp_path, trials=8, warm_start=tmp_path / "moved", top=3), print)
    assert queue(more) == [*queue(plan), BEST_FIRST[2]]
    fresh = start_from_known(plan_of(tmp_path, trials=8, fresh=True), print)
    assert fresh.enqueued == ()


def test_an_extension_needs_room_for_what_it_enqueues(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, trials=2, seeds=2, enqueue=[{FACTOR: 2.0}])
    first = replace(record_of(plan, 0, [0.8] * 2, {FACTOR: 2.0, "distillation_temperature": 1.0}), origin="enqueued")
    written(plan, [first, record_of(plan, 1, [0.8] * 2)])
    check_room(start_from_known(plan, print))
    two = [{FACTOR: 2.0}, {FACTOR: 3.0}]
    check_room(start_from_known(plan_of(tmp_path, trials=3, seeds=2, enqueue=two), print))
    late = start_from_known(plan_of(tmp_path, trials=2, seeds=2, enqueue=two), print)
    assert broken(check_room, late) == [("trials", "trials-for-enqueued")]
