"""Stopping trials early: which, when, and what is said of it. Optuna's storage and pruners are the real ones."""

import math

import pytest
from optuna.trial import TrialState
from scipy import stats

from clsearch.planning.options import Pruner
from clsearch.records.early_stopping import describe_saving, rungs, summarize_early_stopping
from clsearch.sampling.journal import open_storage
from clsearch.sampling.pruners import MedianAtTask
from tests.builders import plan_of, record_of
from tests.execution.reports import FlatSearcher
from tests.execution.test_searcher import Host, reopened
from tests.refusals import broken


def begin(tmp_path, pruner, tasks=8, trials=12, **settings):
    plan = plan_of(tmp_path, pruner=pruner, tasks=tasks, trials=trials, references=(), benchmark="permuted-digits",
                   **settings)  # fmt: skip
    return FlatSearcher(plan, open_storage(plan), Host())


def result(learned, score):
    return {"tasks_learned": learned, "average_accuracy": score, "done": False}


def run(searcher, trial, scores):
    """A trial that scores so after each task, in the order in which Ray Tune asks and tells; gives the task after which
    it was stopped, 0 where it ended.
    """
    searcher.suggest(trial)
    for learned, score in enumerate(scores, start=1):
        told = result(learned, score)
        if learned == len(scores):
            searcher.on_trial_complete(trial, told | {"done": True})
        elif searcher.should_stop(trial, told):
            searcher.on_trial_complete(trial, told | {"done": True})
            return learned
        else:
            searcher.on_trial_result(trial, told)
    return 0


def falling(start, tasks=8):
    return [start - 0.02 * task for task in range(tasks)]


def test_asha_lets_the_best_third_of_a_rung_go_on(tmp_path):
    searcher = begin(tmp_path, "asha")
    ends = [run(searcher, f"t{i}", falling(start)) for i, start in enumerate((0.9, 0.8, 0.95, 0.94, 0.7, 0.96, 0.93))]
    # Best of 1, worse of 2, best of 3, 2nd of 4, last of 5, best of 6 (2 go on), 4th of 7 (2 go on).
    assert ends == [0, 2, 0, 2, 2, 0, 2]
    trials = reopened(searcher).trials
    assert [t.state for t in trials] == [TrialState.COMPLETE if not end else TrialState.PRUNED for end in ends]
    assert [*trials[1].intermediate_values] == [1, 2]
    assert trials[1].intermediate_values == pytest.approx({1: 0.8, 2: 0.78})


def test_asha_compares_again_at_the_next_rung(tmp_path):
    searcher = begin(tmp_path, "asha")
    assert run(searcher, "a", falling(0.9)) == 0
    late = [0.99, 0.98, 0.97, 0.96, 0.95, 0.5, 0.4, 0.3]  # better after 2 tasks, worse after 6
    assert run(searcher, "b", late) == 6


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_nobody_is_stopped_after_the_first_task_nor_at_the_last(tmp_path, pruner):
    searcher = begin(tmp_path, pruner, tasks=3)
    for i in range(6):
        assert run(searcher, f"good{i}", [0.9, 0.9, 0.9]) in (0, 2)
    searcher.suggest("bad")
    assert not searcher.should_stop("bad", result(1, 0.0))
    assert not searcher.should_stop("bad", result(3, 0.0) | {"done": True})


def test_median_stops_what_is_below_the_median_of_the_finished_at_the_same_task(tmp_path):
    """Accuracy falls from task to task, so a trial's best so far, which Optuna's own pruner compares, says nothing."""
    searcher = begin(tmp_path, "median")
    starts = (0.90, 0.92, 0.94, 0.96, 0.98)
    assert [run(searcher, f"t{i}", falling(start)) for i, start in enumerate(starts)] == [0] * 5
    assert run(searcher, "below", falling(0.93)) == 2
    assert run(searcher, "above", falling(0.95)) == 0
    assert run(searcher, "equal", falling(0.945)) == 0  # the median of six is between 0.94 and 0.95
    assert run(searcher, "late", [0.99, 0.98, 0.97, 0.5, 0.5, 0.5, 0.5, 0.5]) == 4


def test_median_waits_for_five_finished_trials(tmp_path):
    searcher = begin(tmp_path, "median")
    for i in range(4):
        run(searcher, f"t{i}", falling(0.9))
    assert run(searcher, "bad", falling(0.5)) == 0
    assert run(searcher, "worse", falling(0.4)) == 2


def test_without_a_pruner_nobody_is_stopped(tmp_path):
    searcher = begin(tmp_path, "none")
    assert [run(searcher, f"t{i}", falling(0.9 - 0.1 * i)) for i in range(6)] == [0] * 6


def test_references_are_never_stopped(tmp_path):
    plan = plan_of(tmp_path, pruner="asha", trials=2)
    searcher = FlatSearcher(plan, open_storage(plan), Host())
    assert searcher.suggest("r")["algorithm"] == "finetuning"
    assert not searcher.should_stop("r", result(2, 0.0))


def test_a_decision_outlives_the_process_that_made_it(tmp_path):
    """The rungs are in Optuna's storage: a process that goes on compares with what an earlier one saw."""
    searcher = begin(tmp_path, "asha")
    ended = {}
    for i, start in enumerate((0.9, 0.95, 0.96)):
        run(searcher, f"t{i}", falling(start))
        ended[f"trial_{i:05d}"] = reopened(searcher).trials[i].params
    again = FlatSearcher(searcher.plan, open_storage(searcher.plan), Host(), ended)
    assert run(again, "u", falling(0.92)) == 2


def test_a_pruned_trial_whose_record_is_missing_is_stopped_at_the_same_task_again(tmp_path):
    searcher = begin(tmp_path, "asha")
    assert [run(searcher, "a", falling(0.9)), run(searcher, "b", falling(0.8))] == [0, 2]
    before = reopened(searcher).trials[1]
    again = FlatSearcher(
        searcher.plan, open_storage(searcher.plan), Host(), {"trial_00000": reopened(searcher).trials[0].params}
    )
    assert again.suggest("u")["label"] == "trial_00001"
    assert not again.should_stop("u", result(1, 0.8))
    assert again.should_stop("u", result(2, 0.78))
    again.on_trial_complete("u", result(2, 0.78) | {"done": True})
    assert reopened(searcher).trials[1] == before


def test_a_diverged_trial_whose_record_is_missing_is_left_to_diverge_again(tmp_path):
    searcher = begin(tmp_path, "asha")
    searcher.suggest("a")
    searcher.on_trial_result("a", result(1, 0.9))
    searcher.on_trial_complete("a", {"tasks_learned": 1, "failed": "training diverged", "done": True})
    again = FlatSearcher(searcher.plan, open_storage(searcher.plan), Host(), {})
    again.suggest("u")
    assert not again.should_stop("u", result(1, 0.9))


# Refusals


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"objectives": ("average_accuracy", "average_forgetting")}, "pruner-objective"),
        ({"objectives": ("learning_accuracy",)}, "pruner-objective"),
        ({"tasks": 2}, "pruner-needs-tasks"),
        ({"tasks": 5, "protocol": "first_k", "first_k": 2}, "pruner-needs-tasks"),
        ({"protocol": "continual", "space": None, "distillation_temperature": 2.0}, "sampler-only"),
    ],
)
def test_a_pruner_that_cannot_serve_is_refused(tmp_path, settings, rule):
    assert ("pruner", rule) in broken(plan_of, tmp_path, pruner="asha", **settings)


# What is said at the end


@pytest.mark.parametrize(
    ("pruner", "tasks", "expected"),
    [("asha", 5, [2]), ("asha", 6, [2]), ("asha", 7, [2, 6]), ("asha", 20, [2, 6, 18]), ("median", 5, [2, 3, 4]),
     ("none", 5, [])],
)  # fmt: skip
def test_rungs_are_where_trials_are_compared(tmp_path, pruner, tasks, expected):
    assert rungs(plan_of(tmp_path, pruner=pruner, tasks=tasks, benchmark="permuted-digits")) == expected


def test_the_end_says_what_was_saved_and_whether_early_scores_can_be_trusted(tmp_path):
    plan = plan_of(tmp_path, pruner="asha", tasks=3, seeds=2, trials=7)
    finished = [record_of(plan, i, [0.5 + 0.05 * i, 0.6]) for i in (0, 3, 1, 2)]
    stopped = [record_of(plan, 4 + i, [0.3, 0.2], state="pruned", learned=2) for i in range(3)]
    found = summarize_early_stopping(plan, [*finished, *stopped])
    assert (found.trials, found.saved, found.total) == (3, 3 * 2, 7 * 3 * 2)
    (rung,) = found.rungs
    assert (rung.tasks, rung.stopped, rung.finished) == (2, 3, 4)
    early = [sum(matrix[2][0] + matrix[2][1] for matrix in r.accuracy) for r in finished]
    late = [r.metrics["average_accuracy"] for r in finished]
    assert rung.correlation == pytest.approx(stats.spearmanr(early, late).statistic)
    lines = describe_saving(found, "asha", 7)
    assert lines[0] == "Stopped early (asha): 3 of 7 trials, which saved 6 of 42 task-seed trainings (14 %)."
    assert lines[1].startswith("After task 2: 3 stopped; rank correlation (Spearman)")
    assert lines[1].endswith(f"over the 4 finished trials: {rung.correlation:.2f}.")


def test_too_few_finished_trials_have_no_rank_correlation(tmp_path):
    plan = plan_of(tmp_path, pruner="asha", tasks=3, seeds=2)
    records = [record_of(plan, i, [0.5, 0.6]) for i in range(2)]
    found = summarize_early_stopping(plan, records)
    assert math.isnan(found.rungs[0].correlation)
    assert describe_saving(found, "asha", 2)[1].endswith("over the 2 finished trials: undefined.")


def test_without_a_pruner_nothing_is_said(tmp_path):
    plan = plan_of(tmp_path)
    assert plan.options.pruner is Pruner.NONE
    assert summarize_early_stopping(plan, [record_of(plan, 0, [0.5] * 3)]) is None


def test_the_median_pruner_needs_a_reported_value(tmp_path):
    searcher = begin(tmp_path, "median")
    for i in range(5):
        run(searcher, f"t{i}", falling(0.9))
    searcher.suggest("new")
    study = searcher.study
    assert not MedianAtTask().prune(study, study.get_trials()[-1])
