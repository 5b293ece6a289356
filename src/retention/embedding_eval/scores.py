"""Scores of a benchmark, and their difference to those of another model on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor

from retention.report.intervals import Estimate, bootstrap_interval

_RESAMPLES = 2000
_CHUNK = 100  # resamples ranked at once, which bounds the memory

Row = dict[str, Any]


@dataclass(frozen=True)
class Scores:
    """Result of a model on a benchmark.

    Attributes:
        metrics: name -> value.
        rows: outcome of each pair, query or text, as plain values with an ``id``.
    """

    metrics: Mapping[str, float]
    rows: Sequence[Row]


class Benchmark(Protocol):
    """Texts and what is computed from their embeddings."""

    name: str

    @property
    def texts(self) -> Sequence[str]:
        """Return the texts to embed."""

    def describe(self) -> dict[str, Any]:
        """Return source and numbers of the rows, for records."""

    def evaluate(self, embeddings: Tensor) -> Scores:
        """Compute the scores from the embeddings [N, D] of ``texts``."""

    def differences(self, ours: Sequence[Row], reference: Sequence[Row]) -> dict[str, Estimate]:
        """Compute the difference of each metric from the rows of two models, paired, with its interval."""


def mean_difference(ours: ArrayLike, reference: ArrayLike) -> Estimate:
    """Compute the mean of the paired differences with its bootstrap interval over rows.

    Args:
        ours: values of the rows, [rows] or [seeds, rows].
        reference: values of the same rows.
    """
    difference = np.asarray(ours, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    return bootstrap_interval(np.atleast_2d(difference))


def spearman_difference(
    ours: Sequence[float], reference: Sequence[float], gold: Sequence[float], *, seed: int = 0
) -> Estimate:
    """Compute Spearman(ours, gold) - Spearman(reference, gold) with its percentile bootstrap interval over pairs.

    Both correlations of a resample are of the same pairs.

    Args:
        ours: similarities of the pairs, [pairs].
        reference: similarities of the same pairs by the other model.
        gold: similarities that persons assigned.
        seed: of the random generator.
    """
    columns = [np.asarray(values, dtype=np.float64) for values in (ours, reference, gold)]
    count = len(columns[0])
    mean = spearman(ours, gold) - spearman(reference, gold)
    if count < 3:
        return Estimate(mean, None, None, count)
    generator = np.random.default_rng(seed)
    differences = []
    for _ in range(0, _RESAMPLES, _CHUNK):
        drawn = generator.integers(count, size=(_CHUNK, count))
        first, second, target = (stats.rankdata(column[drawn], axis=1) for column in columns)
        differences.append(_correlation(first, target) - _correlation(second, target))
    low, high = np.nanquantile(np.concatenate(differences), (0.025, 0.975))
    return Estimate(mean, float(low), float(high), count)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Compute Spearman's rank correlation; NaN where one side is constant."""
    return float(stats.spearmanr(first, second).statistic)


def by_id(rows: Sequence[Row], read: Callable[[Row], Any]) -> dict[str, Any]:
    """Return a value of every row, by the id of the row."""
    return {str(row["id"]): read(row) for row in rows}


def paired(ours: Sequence[Row], reference: Sequence[Row], read: Callable[[Row], Any]) -> tuple[list[Any], list[Any]]:
    """Return a value of every row of two models, in the order of the first.

    Raises:
        ValueError: the rows are not the same.
    """
    first, second = by_id(ours, read), by_id(reference, read)
    if first.keys() != second.keys():
        raise ValueError(f"{len(first)} and {len(second)} rows, not with the same ids")
    return list(first.values()), [second[name] for name in first]


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute Pearson's correlation of each row, [resamples]; NaN where a row is constant."""
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (first, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation: NDArray[np.float64] = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return correlation
