"""A search ends when enough trials in a row did not improve the best."""

from dataclasses import replace

import pytest

from clsearch.records.search_end import count_unimproved, describe_patience_end, describe_time_end, is_out_of_patience
from tests.builders import plan_of, record_of

# Two seeds with the scores s ± 0.1: their standard deviation is 0.1 * sqrt(2), the standard error of the mean is 0.1.


def records_of(plan, *scores):
    return [record_of(plan, number, [score - 0.1, score + 0.1]) for number, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((), 0),
        ((0.5,), 0),
        ((0.5, 0.4), 1),
        ((0.5, 0.59), 1),  # better by less than the standard error
        ((0.5, 0.61), 0),
        ((0.5, 0.58, 0.61), 0),  # small steps add up: the best is still the first
        ((0.5, 0.58, 0.59, 0.4), 3),
        ((0.3, 0.5, 0.4, 0.55), 2),
    ],
)
def test_trials_that_do_not_improve_the_best_by_more_than_its_standard_error_are_counted(tmp_path, scores, expected):
    plan = plan_of(tmp_path, seeds=2)
    assert count_unimproved(plan, reversed(records_of(plan, *scores))) == expected


def test_one_seed_has_no_standard_error(tmp_path):
    plan = plan_of(tmp_path, seeds=1)
    assert count_unimproved(plan, [record_of(plan, n, [score]) for n, score in enumerate((0.5, 0.5001, 0.5))]) == 1


def test_a_metric_to_minimize_improves_downwards(tmp_path):
    plan = plan_of(tmp_path, seeds=1, objectives=("average_forgetting",))
    records = [record_of(plan, n, [0.9], forgetting=[lost]) for n, lost in enumerate((0.3, 0.2, 0.4))]
    assert count_unimproved(plan, records) == 1


def test_pruned_failed_and_infeasible_trials_improve_nothing_and_open_ones_are_not_counted(tmp_path):
    plan = plan_of(tmp_path, seeds=2, constraints={"average_accuracy": 0.3})
    first, *others = records_of(plan, 0.35, 0.9, 0.9, 0.9, 0.25)
    pruned, failed, running = (
        replace(r, state=s) for r, s in zip(others, ("pruned", "failed", "running"), strict=False)
    )
    assert count_unimproved(plan, [first, pruned, failed, running]) == 2
    assert count_unimproved(plan, [others[-1], first]) == 1  # the first keeps the constraint, the other does not


def test_patience_counts_anew_when_a_study_gets_more_trials(tmp_path):
    plan = plan_of(tmp_path, seeds=2, patience=2, trials=9)
    records = records_of(plan, 0.5, 0.4, 0.4, 0.4)
    assert is_out_of_patience(plan, records)
    assert not is_out_of_patience(plan, records, begin=4)
    assert not is_out_of_patience(plan, records, begin=3)
    assert is_out_of_patience(plan, records, begin=2)
    assert not is_out_of_patience(plan_of(tmp_path, seeds=2), records)


def test_the_end_is_told_with_its_numbers(tmp_path):
    plan = plan_of(tmp_path, seeds=2, patience=2, trials=9)
    records = records_of(plan, 0.5, 0.4, 0.4)
    assert describe_patience_end(plan, records).startswith(
        "The search ended after 2 trials in a row that did not improve the best by more than its standard error "
        "(patience 2), with 3 of 9 trials."
    )
    assert describe_patience_end(plan_of(tmp_path, seeds=2, patience=2, trials=3), records) == ""
    assert describe_time_end(plan, records, 7080, 7200).startswith(
        "The search ended after 1 h 58 min of 2 h, with 3 of 9 trials."
    )
