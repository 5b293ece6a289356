"""Compute means with 95 % confidence intervals over seeds and test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

_CHUNK = 200  # resamples drawn at once, which bounds the memory


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval.

    Attributes:
        mean: mean of the values.
        low: lower end; None with fewer than two values.
        high: upper end; None with fewer than two values.
        count: number of values, >= 1.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    def above(self, bound: float) -> bool:
        """Return True if the whole interval lies at or above ``bound``."""
        return self.low is not None and self.low >= bound

    def below(self, bound: float) -> bool:
        """Return True if the whole interval lies below ``bound``."""
        return self.high is not None and self.high < bound


def estimate(values: Sequence[float]) -> Estimate:
    """Compute mean and Student's t interval of independent values, for example one per seed.

    For a comparison, pass the differences within each seed: variation that both sides share then cancels.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to take a mean of")
    mean, count = fmean(values), len(values)
    if count < 2:
        return Estimate(mean, None, None, count)
    margin = float(stats.t.ppf(0.975, count - 1)) * stdev(values) / sqrt(count)
    return Estimate(mean, mean - margin, mean + margin, count)


def bootstrap_interval(scores: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Compute the mean of a table of scores and its percentile bootstrap interval over seeds and rows.

    Seeds and rows are resampled with replacement, independently of each other, so the interval carries what other
    training seeds and other test rows would change. With one seed only rows are resampled; with few seeds the
    interval tends to be too narrow.

    Args:
        scores: array of shape [seeds, rows]; for a comparison, the paired differences.
        resamples: number of bootstrap samples, >= 1.
        seed: of the random generator.

    Returns:
        Mean and interval; ``count`` is the number of rows.

    Raises:
        ValueError: the array is empty or not two-dimensional.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"scores must have the shape [seeds, rows] and hold values, got shape {table.shape}")
    seeds, rows = table.shape
    generator = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        seed_counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=size)
        row_counts = generator.multinomial(rows, np.full(rows, 1 / rows), size=size)
        means.append(((seed_counts @ table) * row_counts).sum(axis=1) / table.size)
    mean = float(table.mean())
    if rows < 2:
        return Estimate(mean, None, None, rows)
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Estimate(mean, float(low), float(high), rows)
