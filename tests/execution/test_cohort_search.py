"""Optuna's part in cohorts: configurations asked for together, each told of by itself. The journal is a real one."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from clsearch import LogRange
from clsearch.execution.messages import reports_in
from clsearch.execution.searcher import OptunaSearcher
from clsearch.sampling.journal import open_storage
from tests.builders import plan_of
from tests.execution.reports import report_of as own
from tests.execution.reports import result_of as told
from tests.execution.test_searcher import Host, reopened


def begin(tmp_path, cohort=3, trials=5, references=(), **settings):
    plan = plan_of(tmp_path, cohort=cohort, trials=trials, references=tuple(references), **settings)
    return OptunaSearcher(plan, open_storage(plan), Host())


def labels(asked):
    return [each["label"] for each in asked.get("cohort", [asked])]


def states(searcher):
    return [trial.state for trial in reopened(searcher).trials]


def test_a_cohort_is_asked_for_at_once_and_the_last_is_what_is_left(tmp_path):
    searcher = begin(tmp_path, references=["finetuning"])
    assert [labels(searcher.suggest(f"t{i}")) for i in range(3)] == [
        ["reference_finetuning"],
        ["trial_00000", "trial_00001", "trial_00002"],
        ["trial_00003", "trial_00004"],
    ]
    assert searcher.suggest("t3") == Searcher.FINISHED
    values = [tuple(trial.params.values()) for trial in reopened(searcher).trials]
    assert len({*values}) == 5


def test_a_grid_in_cohorts_has_the_points_of_one_alone(tmp_path):
    space = {"distillation_factor": LogRange(0.1, 10)}
    settings = {"sampler": "grid", "grid_points": 5, "trials": None, "space": space}
    points = []
    for cohort in (1, 2, 5):
        searcher = begin(tmp_path / str(cohort), cohort, **settings)
        while (asked := searcher.suggest(f"t{searcher.asked}")) != Searcher.FINISHED:
            points += [each["values"]["distillation_factor"] for each in asked.get("cohort", [asked])]
    assert points == points[:5] * 3


def test_each_is_told_by_itself_and_a_failed_one_is_not_told_twice(tmp_path):
    searcher = begin(tmp_path, trials=3)
    a, b, c = labels(searcher.suggest("t"))
    first = told(own(a, 1, 0.9), own(b, 1, 0.8), own(c, 0, failed="diverged", done=True))
    assert not searcher.should_stop("t", first)
    searcher.on_trial_result("t", first)
    assert states(searcher) == [TrialState.RUNNING, TrialState.RUNNING, TrialState.PRUNED]
    assert reopened(searcher).trials[2].user_attrs == {"reason": "diverged"}
    searcher.on_trial_complete("t", told(own(a, 3, 0.7, done=True), own(b, 3, 0.6, done=True), done=True))
    trials = reopened(searcher).trials
    assert [trial.state for trial in trials[:2]] == [TrialState.COMPLETE] * 2
    assert [trial.value for trial in trials[:2]] == [0.7, 0.6]
    assert [trial.intermediate_values for trial in trials] == [{1: 0.9, 3: 0.7}, {1: 0.8, 3: 0.6}, {}]


def test_one_that_caught_up_later_is_told_when_it_ends(tmp_path):
    """The others of its cohort had come further, so a result has not all of them."""
    searcher = begin(tmp_path, trials=2)
    a, b = labels(searcher.suggest("t"))
    assert not searcher.should_stop("t", told(own(a, 3, 0.7, done=True)))
    assert states(searcher) == [TrialState.COMPLETE, TrialState.RUNNING]
    searcher.on_trial_complete("t", told(own(b, 3, 0.8, done=True), done=True))
    assert [trial.value for trial in reopened(searcher).trials] == [0.7, 0.8]


@pytest.mark.parametrize("end", [{"error": True}, {"result": None}])
def test_where_the_worker_is_lost_those_that_had_not_ended_failed(tmp_path, end):
    searcher = begin(tmp_path, trials=3)
    a, b, c = labels(searcher.suggest("t"))
    searcher.should_stop("t", told(own(a, 3, 0.7, done=True), own(b, 2, 0.7), own(c, 2, 0.6)))
    searcher.on_trial_complete("t", **end)
    assert states(searcher) == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]


def test_what_did_not_fit_into_memory_failed(tmp_path):
    searcher = begin(tmp_path, trials=2)
    short = {"failed": "out of memory", "out_of_memory": True, "done": True}
    asked = labels(searcher.suggest("t"))
    searcher.on_trial_complete("t", told(*(own(label, 1, 0.5, **short) for label in asked), done=True))
    assert states(searcher) == [TrialState.FAIL] * 2


def test_those_of_a_cohort_are_judged_against_each_other_whatever_their_order(tmp_path):
    """asha lets the best third go on; told one after the other, the first would always be among them."""
    scores = [0.5, 0.9, 0.6, 0.7, 0.8, 0.4]
    searcher = begin(tmp_path, cohort=6, trials=6, pruner="asha", tasks=8, benchmark="permuted-digits")
    asked = labels(searcher.suggest("t"))
    for task in (1, 2):
        result = told(*(own(label, task, score) for label, score in zip(asked, scores, strict=True)))
        assert not searcher.should_stop("t", result)
        searcher.on_trial_result("t", result)
    assert [label for label, each in zip(asked, reports_in(result).values(), strict=True) if not each.done] == [
        "trial_00001",
        "trial_00004",
    ]
    pruned, going = TrialState.PRUNED, TrialState.RUNNING
    assert states(searcher) == [pruned, going, pruned, pruned, going, pruned]
    searcher.on_trial_complete("t", told(*(own(asked[i], 8, 0.3, done=True) for i in (1, 4)), done=True))
    assert states(searcher)[1] is TrialState.COMPLETE
    assert len(reopened(searcher).trials) == 6


def test_a_cohort_that_is_stopped_as_a_whole_is_over(tmp_path):
    searcher = begin(tmp_path, cohort=2, trials=8, pruner="asha", tasks=8, benchmark="permuted-digits")
    for number in range(3):
        searcher.suggest(f"good{number}")
        good = [own(f"trial_{2 * number + i:05d}", 2, 0.9) for i in (0, 1)]
        assert not searcher.should_stop(f"good{number}", told(*good))
    asked = labels(searcher.suggest("bad"))
    assert searcher.should_stop("bad", told(*(own(label, 2, 0.1) for label in asked)))
    assert states(searcher)[-2:] == [TrialState.PRUNED] * 2
    searcher.on_trial_complete("bad", told(*(own(label, 2, 0.1, done=True) for label in asked), done=True))
    assert states(searcher)[-2:] == [TrialState.PRUNED] * 2


def test_resuming_regroups_what_was_unfinished(tmp_path):
    searcher = begin(tmp_path, cohort=2, trials=8)
    values = {}
    for number in range(3):
        values |= {each["label"]: each["values"] for each in searcher.suggest(f"t{number}")["cohort"]}
    searcher.on_trial_complete("t1", told(own("trial_00002", 3, 0.7, done=True), own("trial_00003", 3, 0.6, done=True)))
    plan = plan_of(tmp_path, cohort=3, trials=8, references=())
    ended = {label: values[label] for label in ("trial_00002", "trial_00003")}
    again = OptunaSearcher(plan, open_storage(plan), Host(), ended)
    asked = [again.suggest(f"u{number}") for number in range(3)]
    assert [labels(each) for each in asked] == [
        ["trial_00000", "trial_00001", "trial_00004"],
        ["trial_00005"],
        ["trial_00006", "trial_00007"],
    ]
    assert all(values[each["label"]] == each["values"] for each in asked[0]["cohort"])
    assert again.suggest("u3") == Searcher.FINISHED


def test_one_that_optuna_knows_to_have_been_stopped_is_stopped_there_again(tmp_path):
    """Its record was not written before the process died; the other of its cohort goes on."""
    settings = {"cohort": 2, "trials": 8, "pruner": "asha", "tasks": 8, "benchmark": "permuted-digits"}
    searcher = begin(tmp_path, **settings)
    for number in range(3):
        searcher.suggest(f"good{number}")
        searcher.should_stop(f"good{number}", told(*(own(f"trial_{2 * number + i:05d}", 2, 0.9) for i in (0, 1))))
    last = labels(searcher.suggest("bad"))
    searcher.should_stop("bad", told(own(last[0], 2, 0.1), own(last[1], 2, 0.95)))
    plan = plan_of(tmp_path, references=(), **settings)
    ended = {f"trial_{number:05d}": {} for number in range(6)}
    again = OptunaSearcher(plan, open_storage(plan), Host(), ended)
    assert labels(again.suggest("u")) == last
    result = told(own(last[0], 2, 0.1), own(last[1], 2, 0.95))
    assert not again.should_stop("u", result)
    assert [report.done for report in reports_in(result).values()] == [True, False]
