"""Confidence intervals, on numbers worked out by hand."""

from __future__ import annotations

import pytest
from reproduction.comparison import relate

from retention.report.intervals import estimate


def test_the_interval_of_three_values_uses_two_degrees_of_freedom() -> None:
    found = estimate([1.0, 2.0, 3.0])
    margin = 4.303 / 3**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2.0 - margin, 2.0 + margin))


def test_one_value_has_no_interval_and_decides_nothing() -> None:
    found = estimate([5.0])
    assert (found.low, found.high) == (None, None)
    assert not found.above(0.0) and not found.below(10.0)


def test_an_interval_across_the_bound_is_neither_above_nor_below() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert not found.above(2.0) and not found.below(2.0)
    assert found.above(-1.0) and found.below(5.0)


def test_many_values_fall_back_to_the_normal_quantile() -> None:
    found = estimate([0.0, 1.0] * 20)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.50637 / 40**0.5, abs=1e-4)


def test_what_a_seed_does_to_both_sides_falls_out(quality) -> None:  # type: ignore[no-untyped-def]
    own = [quality("adaptive", 0.3, value, seed) for seed, value in enumerate((0.70, 0.80, 0.90))]
    dense = [quality("dense", 1.0, value, seed) for seed, value in enumerate((0.75, 0.85, 0.95))]
    relation = relate(own, dense)
    assert relation is not None
    assert (relation.difference.mean, relation.difference.low) == pytest.approx((-5.0, -5.0))
    assert relation.share.mean == pytest.approx((70 / 75 + 80 / 85 + 90 / 95) / 3)


def test_without_a_common_seed_only_means_are_compared(quality) -> None:  # type: ignore[no-untyped-def]
    relation = relate([quality("adaptive", 0.3, 0.8, 1)], [quality("dense", 1.0, 0.9, 2)])
    assert relation is not None
    assert relation.difference.mean == pytest.approx(-10.0) and relation.difference.low is None


def test_a_run_that_diverged_has_no_relation(quality) -> None:  # type: ignore[no-untyped-def]
    assert relate([quality("adaptive", 0.3, None)], [quality("dense", 1.0, 0.9)]) is None
