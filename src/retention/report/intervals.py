"""Compute means with 95 % confidence intervals over seeds and test rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

import numpy as np
from numpy.typing import ArrayLike, NDArray
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


def bootstrap_interval(
    scores: ArrayLike,
    *,
    documents: Sequence[str] | None = None,
    resample_seeds: bool = True,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Compute the mean of a table of scores and its percentile bootstrap interval over seeds and rows.

    Seeds and rows are resampled with replacement, independently of each other, so the interval carries what other
    training seeds and other test rows would change. With one seed only rows are resampled; with few seeds the
    interval tends to be too narrow. Rows of one document resemble each other: with ``documents``, whole documents are
    resampled instead of rows (cluster bootstrap, Field and Welsh 2007).

    Args:
        scores: array of shape [seeds, rows]; for a comparison, the paired differences.
        documents: document of each row; None = each row is one of its own.
        resample_seeds: False = the trained models are held fixed.
        resamples: number of bootstrap samples, >= 1.
        seed: of the random generator.

    Returns:
        Mean and interval, none with a single document; ``count`` is the number of rows.

    Raises:
        ValueError: the array is empty or not two-dimensional, or there is not one document per row.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"scores must have the shape [seeds, rows] and hold values, got shape {table.shape}")
    seeds, rows = table.shape
    means = []
    for drawn, row_counts in _resamples(seeds, _units(rows, documents), resamples, seed):
        seed_counts = drawn if resample_seeds else np.ones_like(drawn)
        means.append(((seed_counts @ table) * row_counts).sum(axis=1) / (seeds * row_counts.sum(axis=1)))
    return _percentiles(float(table.mean()), means, rows, documents)


def bootstrap_metric_interval(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    documents: Sequence[str] | None = None,
    resample_seeds: bool = True,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Compute the difference of a metric of the whole test set, and its percentile bootstrap interval.

    As ``bootstrap_interval``, for metrics that are no mean over rows: the same rows are drawn for both sides, and the
    difference is averaged over the seeds that are drawn.

    Args:
        first: vectors of counts of each row, [seeds, rows, K].
        second: likewise, of the same rows.
        value: from sums of vectors [..., K] to the metric [...].
        documents: see ``bootstrap_interval``.
        resample_seeds: False = the trained models are held fixed.
        resamples: number of bootstrap samples, >= 1.
        seed: of the random generator.
    """
    seeds, rows = first.shape[:2]
    samples = []
    for drawn, row_counts in _resamples(seeds, _units(rows, documents), resamples, seed):
        seed_counts = drawn if resample_seeds else np.ones_like(drawn)
        sides = (value(np.einsum("nr,srk->nsk", row_counts, side, optimize=True)) for side in (first, second))
        differences = next(sides) - next(sides)  # [samples, seeds]
        samples.append((seed_counts * differences).sum(axis=1) / seeds)
    mean = float((value(first.sum(1)) - value(second.sum(1))).mean())
    return _percentiles(mean, samples, rows, documents)


def _units(rows: int, documents: Sequence[str] | None) -> NDArray[np.int64]:
    """Return for each row the number of the unit that is drawn with it, counted from 0."""
    if documents is None:
        return np.arange(rows)
    if len(documents) != rows:
        raise ValueError(f"documents must name one document per row, got {len(documents)} for {rows} rows")
    return np.unique(np.asarray(documents), return_inverse=True)[1]


def _resamples(
    seeds: int, units: NDArray[np.int64], resamples: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield how often each seed and each row is drawn, [samples, seeds] and [samples, rows], in chunks of samples."""
    generator, count = np.random.default_rng(seed), int(units.max()) + 1
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        seed_counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=size)
        yield seed_counts, generator.multinomial(count, np.full(count, 1 / count), size=size)[:, units]


def _percentiles(
    mean: float, samples: Sequence[NDArray[np.float64]], rows: int, documents: Sequence[str] | None
) -> Estimate:
    if len(set(range(rows) if documents is None else documents)) < 2:
        return Estimate(mean, None, None, rows)
    low, high = np.quantile(np.concatenate(samples), (0.025, 0.975))
    return Estimate(mean, float(low), float(high), rows)
