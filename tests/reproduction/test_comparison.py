"""Comparisons of runs, on numbers computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from reproduction.comparison import Comparison, compare, comparison_cells

from retention.report.grouping import group_runs

Make = Callable[..., dict[str, Any]]


def compare_with_dense(records: list[dict[str, Any]]) -> Comparison | None:
    dense, pruned = group_runs(records).all
    return compare(pruned, dense)


def test_variation_that_both_sides_share_cancels(quality: Make) -> None:
    records = [quality("adaptive", 0.3, value, seed) for seed, value in enumerate((0.70, 0.80, 0.90))]
    records += [quality("dense", 1.0, value, seed) for seed, value in enumerate((0.75, 0.85, 0.95))]
    comparison = compare_with_dense(records)
    assert comparison is not None
    assert (comparison.difference.mean, comparison.difference.low) == pytest.approx((-5.0, -5.0))
    assert comparison.ratio.mean == pytest.approx((70 / 75 + 80 / 85 + 90 / 95) / 3)


def test_without_a_common_seed_the_means_are_compared(quality: Make) -> None:
    comparison = compare_with_dense([quality("adaptive", 0.3, 0.8, 1), quality("dense", 1.0, 0.9, 2)])
    assert comparison is not None
    assert comparison.difference.mean == pytest.approx(-10.0) and comparison.difference.low is None


def test_diverged_run_has_no_comparison(quality: Make) -> None:
    comparison = compare_with_dense([quality("adaptive", 0.3, None), quality("dense", 1.0, 0.9)])
    assert comparison is None
    assert comparison_cells(comparison, "none") == ("none", "-", "-")
