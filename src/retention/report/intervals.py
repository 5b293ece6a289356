"""Means over seeds and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

# Student's t, two-sided 95 %, for 1..30 degrees of freedom; the normal value from there on.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_Z95 = 1.960


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval.

    Attributes:
        mean: of the values.
        low: lower end; None with fewer than two values.
        high: upper end; None with fewer than two values.
        count: number of values, >= 1.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    def above(self, bound: float) -> bool:
        """Whether the whole interval lies at or above ``bound``."""
        return self.low is not None and self.low >= bound

    def below(self, bound: float) -> bool:
        """Whether the whole interval lies below ``bound``."""
        return self.high is not None and self.high < bound


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t-interval of independent values, one per seed.

    For a comparison, give the differences within each seed: what a seed does to both sides then falls out.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to take a mean of")
    mean, count = fmean(values), len(values)
    if count < 2:
        return Estimate(mean, None, None, count)
    quantile = _T95[count - 2] if count - 2 < len(_T95) else _Z95
    margin = quantile * stdev(values) / sqrt(count)
    return Estimate(mean, mean - margin, mean + margin, count)
