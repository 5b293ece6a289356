"""Differences of records with other seeds are pooled, each seed once."""

from __future__ import annotations

from typing import Any

import pytest
from reproduction.pooling import pooled, seed_differences

Record = dict[str, Any]


def compared(by_seed: dict[int, float], half: float = 0.01, date: str = "2026-01-01", **changes: Any) -> Record:
    """Return a paired record whose interval over rows is the mean +- ``half``, that over seeds and rows twice that."""
    values = list(by_seed.values())
    mean = sum(values) / len(values)
    seeds: Any = list(by_seed) if len(by_seed) > 1 else next(iter(by_seed))
    ends = {
        "low": mean - half,
        "high": mean + half,
        "bootstrap_low": mean - 2 * half,
        "bootstrap_high": mean + 2 * half,
    }
    record = {"first": {"seed": seeds}, "rows": 500, "difference": {"mean": mean, **ends}, "date": date}
    return {**record, "by_seed": values if len(values) > 1 else None, **changes}


def test_a_single_record_keeps_its_bootstrap_in_either_direction() -> None:
    record = compared({0: 0.03, 1: 0.05})
    difference = pooled([seed_differences(record)])
    assert (difference.mean, difference.low, difference.high) == pytest.approx((4.0, 2.0, 6.0))
    turned = pooled([seed_differences(record, -1.0)])
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-4.0, -6.0, -2.0))


def test_more_seeds_do_not_add_test_rows() -> None:
    same = pooled([seed_differences(compared({seed: 0.01}, half=0.005)) for seed in (0, 1)])
    assert (same.mean, same.low, same.high) == pytest.approx((1.0, 0.0, 2.0)), "the rows are the same"
    apart = pooled([seed_differences(compared({0: 0.0})), seed_differences(compared({1: 0.02}))])
    assert apart.mean == pytest.approx(1.0) and apart.low is not None and apart.low < -1.0


def test_records_of_several_seeds_go_first_and_each_seed_counts_once() -> None:
    records = [compared({0: 0.9}), compared({0: 0.01, 1: 0.02, 3: 0.03}), compared({2: 0.06}), compared({1: 0.9})]
    difference = pooled(map(seed_differences, records))
    assert difference.mean == pytest.approx(3.0), "mean of the seeds 0, 1, 3 and 2"
    assert difference.low is not None and difference.low < 2.0


def test_the_later_of_two_records_of_a_seed_counts() -> None:
    records = [compared({0: 0.01}, date="2026-02-02"), compared({0: 0.05}, date="2026-01-01")]
    assert pooled(map(seed_differences, records)).mean == pytest.approx(1.0)


def test_records_of_earlier_versions_have_no_bootstrap() -> None:
    record = compared({0: 0.02}, half=0.01)
    record["difference"] = {key: record["difference"][key] for key in ("mean", "low", "high")}
    difference = pooled([seed_differences(record)])
    assert (difference.low, difference.high) == pytest.approx((1.0, 3.0))
