"""Intervals over seeds. They cover the randomness of the seeds only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    Args:
        mean: Mean of the values.
        low: Lower end, by Student's t; NaN for a single value.
        high: Upper end, by Student's t; NaN for a single value.
    """

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values with its 95 % interval (Student 1908)."""
    from scipy.special import stdtrit  # importing scipy.stats takes most of a second

    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stdtrit(len(array) - 1, 0.975) * array.std(ddof=1) / np.sqrt(len(array)))
    return Interval(mean, mean - half, mean + half)


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return the mean of first - second with its 95 % interval.

    Args:
        first: One value per seed.
        second: One value per seed, in the same order.

    Raises:
        ValueError: If the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f"both must have one value per seed; got {len(first)} and {len(second)}")
    return interval(np.asarray(first, dtype=float) - np.asarray(second, dtype=float))


def indistinguishable(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return True if the paired interval of the difference contains 0; always for a single seed."""
    difference = paired_difference(first, second)
    return not (difference.low > 0 or difference.high < 0)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation (1904), with ties at their mean rank; NaN if either is constant."""
    if len({*first}) < 2 or len({*second}) < 2:
        return float("nan")
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Return the rank of each value, from 1, with ties at their mean rank."""
    _, positions, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[positions]
