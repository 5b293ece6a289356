"""p-values from intervals and Holm's correction; test_target_speeds.py has the table."""

from __future__ import annotations

import pytest
from reproduction.comparison_family import holm, p_value

from retention.report.intervals import Estimate


def test_an_interval_that_touches_zero_has_p_of_one_in_twenty() -> None:
    assert p_value(Estimate(1.0, 0.0, 2.0, 100)) == pytest.approx(0.05)
    assert p_value(Estimate(-1.0, -2.0, 0.0, 100)) == pytest.approx(0.05), "two-sided"
    assert p_value(Estimate(0.0, -1.0, 1.0, 100)) == pytest.approx(1.0)
    assert p_value(Estimate(2.0, 1.0, 3.0, 100)) < 0.001


def test_a_difference_without_any_spread() -> None:
    assert p_value(Estimate(0.0, 0.0, 0.0, 100)) == 1.0
    assert p_value(Estimate(1.0, 1.0, 1.0, 100)) == 0.0


def test_holm_multiplies_the_smallest_by_the_number_and_never_lowers_a_later_one() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
