"""Confidence intervals, on numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from retention.report.intervals import bootstrap_interval, estimate


def test_interval_of_three_values_uses_two_degrees_of_freedom() -> None:
    result = estimate([1.0, 2.0, 3.0])
    margin = 4.302653 / 3**0.5
    assert (result.mean, result.low, result.high) == pytest.approx((2.0, 2.0 - margin, 2.0 + margin))


def test_one_value_has_no_interval() -> None:
    result = estimate([5.0])
    assert (result.low, result.high) == (None, None)
    assert not result.above(0.0) and not result.below(10.0)


def test_interval_containing_the_bound_is_neither_above_nor_below() -> None:
    result = estimate([1.0, 2.0, 3.0])
    assert not result.above(2.0) and not result.below(2.0)
    assert result.above(-3.0) and result.below(7.0)


def test_many_values_approach_the_normal_quantile() -> None:
    result = estimate([0.0, 1.0] * 2000)
    assert result.high == pytest.approx(0.5 + 1.96 * 0.5000625 / 4000**0.5, abs=1e-4)


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_bootstrap_over_rows_agrees_with_the_normal_interval() -> None:
    scores = np.random.default_rng(1).normal(0.2, 1.0, size=(1, 2000))
    result = bootstrap_interval(scores)
    margin = 1.96 * scores.std(ddof=1) / 2000**0.5
    assert result.mean == pytest.approx(scores.mean()) and result.count == 2000
    assert result.low == pytest.approx(result.mean - margin, abs=0.1 * margin)
    assert result.high == pytest.approx(result.mean + margin, abs=0.1 * margin)


def test_bootstrap_interval_grows_with_the_variation_between_seeds() -> None:
    rows = np.random.default_rng(2).normal(0.0, 0.1, size=500)
    equal_seeds = bootstrap_interval(np.stack([rows, rows, rows]))
    different_seeds = bootstrap_interval(np.stack([rows - 0.5, rows, rows + 0.5]))
    assert different_seeds.mean == pytest.approx(equal_seeds.mean)
    widths = [result.high - result.low for result in (equal_seeds, different_seeds)]  # type: ignore[operator]
    assert widths[1] > 10 * widths[0], "an interval over rows alone would not see the seeds"
    assert different_seeds.low == pytest.approx(-0.5, abs=0.05)


def test_bootstrap_is_repeatable_and_checks_its_shape() -> None:
    scores = np.random.default_rng(3).normal(size=(2, 50))
    assert bootstrap_interval(scores) == bootstrap_interval(scores)
    assert bootstrap_interval([[1.0], [2.0]]).low is None
    for wrong in ([1.0, 2.0], [[]], np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match=r"shape \[seeds, rows\]"):
            bootstrap_interval(wrong)


def test_resampled_documents_give_wider_intervals_than_rows_that_resemble_each_other() -> None:
    of_document = np.random.default_rng(4).normal(size=40)
    scores = np.repeat(of_document, 25)[None]
    documents = [f"contract {number}" for number in range(40) for _ in range(25)]
    rows, clusters = bootstrap_interval(scores), bootstrap_interval(scores, documents=documents)
    assert clusters.mean == pytest.approx(rows.mean)
    margin = 1.96 * of_document.std(ddof=1) / 40**0.5
    assert clusters.low == pytest.approx(clusters.mean - margin, abs=0.15 * margin)
    assert clusters.high - clusters.low > 4 * (rows.high - rows.low)  # type: ignore[operator]


def test_resampled_documents_of_one_row_each_equal_resampled_rows() -> None:
    scores = np.random.default_rng(5).normal(size=(3, 30))
    names = [f"{row:02d}" for row in range(30)]
    assert bootstrap_interval(scores, documents=names) == bootstrap_interval(scores)


def test_documents_of_unequal_size_are_averaged_over_their_rows() -> None:
    result = bootstrap_interval([[1.0, 1.0, 1.0, 0.0]], documents=["a", "a", "a", "b"])
    assert result.mean == 0.75 and (result.low, result.high) == (0.0, 1.0)
    assert bootstrap_interval([[1.0, 0.0]], documents=["a", "a"]).low is None
    with pytest.raises(ValueError, match="one document per row, got 1 for 2 rows"):
        bootstrap_interval([[1.0, 0.0]], documents=["a"])


def test_fixed_models_leave_the_variation_between_seeds_out() -> None:
    rows = np.random.default_rng(6).normal(0.0, 0.1, size=500)
    scores = np.stack([rows - 0.5, rows, rows + 0.5])
    fixed = bootstrap_interval(scores, resample_seeds=False)
    assert fixed.low is not None and fixed.low > -0.05 and bootstrap_interval(scores).low < -0.4  # type: ignore[operator]
