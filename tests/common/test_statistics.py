"""Intervals against scipy's own."""

import math

import numpy as np
import pytest
from scipy import stats

from clsearch.common.statistics import indistinguishable, interval, paired_difference, rank_correlation

FIRST = [0.91, 0.88, 0.93, 0.90, 0.87]
SECOND = [0.89, 0.87, 0.90, 0.91, 0.84]


@pytest.mark.parametrize("values", [FIRST, SECOND, FIRST[:2], [0.0, 1.0, 5.0]])
def test_interval_is_scipys_t_interval(values):
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    ours = interval(values)
    assert (ours.mean, ours.low, ours.high) == pytest.approx((np.mean(values), low, high), rel=1e-12)


def test_paired_difference_is_scipys_paired_t_test():
    test = stats.ttest_rel(FIRST, SECOND)
    ours = paired_difference(FIRST, SECOND)
    expected = test.confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert ours.mean == pytest.approx(np.mean(FIRST) - np.mean(SECOND))


@pytest.mark.parametrize(("shift", "same"), [(0.0, True), (0.01, True), (-0.01, False), (0.1, False), (-0.1, False)])
def test_indistinguishable_is_a_paired_t_test_at_five_percent(shift, same):
    shifted = [value + shift for value in SECOND]
    assert bool(stats.ttest_rel(shifted, FIRST).pvalue >= 0.05) == same
    assert indistinguishable(shifted, FIRST) == same


def test_pairing_sees_what_two_separate_intervals_do_not():
    better = [value + 0.01 + 0.001 * i for i, value in enumerate(FIRST)]
    assert interval(better).low < interval(FIRST).high
    assert not indistinguishable(better, FIRST)


def test_a_single_seed_has_a_mean_and_no_interval():
    one = interval([0.75])
    assert one.mean == 0.75
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_a_single_seed_distinguishes_nothing():
    assert indistinguishable([0.9], [0.1])


def test_identical_values_have_an_interval_of_no_width():
    same = interval([0.25, 0.25, 0.25])
    assert (same.mean, same.low, same.high) == (0.25, 0.25, 0.25)


def test_a_configuration_is_indistinguishable_from_itself():
    assert indistinguishable(FIRST, FIRST)
    assert paired_difference(FIRST, FIRST).mean == 0


@pytest.mark.parametrize("compare", [paired_difference, indistinguishable])
def test_unequal_lengths_are_refused(compare):
    with pytest.raises(ValueError, match="got 5 and 4"):
        compare(FIRST, SECOND[:4])


@pytest.mark.parametrize(
    "second", [SECOND, [1.0, 1.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0, 1.0], [-(v**3) for v in FIRST]], ids=range(4)
)
def test_rank_correlation_is_scipys_spearman_with_ties(second):
    assert rank_correlation(FIRST, second) == pytest.approx(stats.spearmanr(FIRST, second).statistic, rel=1e-12)


@pytest.mark.parametrize("values", [([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0]), ([1.0], [2.0])])
def test_what_does_not_vary_has_no_rank_correlation(values):
    assert math.isnan(rank_correlation(*values))
