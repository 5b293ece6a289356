"""Check running sums over batches and ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from retention.callbacks.totals import RunningTotals, max_over_ranks


def test_tensors_and_numbers_are_added(two_ranks: Callable[..., Any]) -> None:
    totals = RunningTotals(shares=2, samples=1)
    totals.add(shares=torch.tensor([0.5, 1.0]), samples=3)
    totals.add(shares=[0.25, 0.0], samples=torch.tensor(4))
    assert totals.read(two_ranks()) == {"shares": [1.5, 2.0], "samples": [14.0]}


def test_rank_without_batches_has_zeros(two_ranks: Callable[..., Any]) -> None:
    assert RunningTotals(a=2, b=1).read(two_ranks()) == {"a": [0.0, 0.0], "b": [0.0]}


def test_reading_leaves_the_sums_unchanged(two_ranks: Callable[..., Any]) -> None:
    totals = RunningTotals(a=1)
    totals.add(a=torch.tensor(1.0))
    assert totals.read(two_ranks()) == totals.read(two_ranks()) == {"a": [2.0]}


def test_counts_above_float32_precision_are_exact(two_ranks: Callable[..., Any]) -> None:
    totals = RunningTotals(tokens=1)
    totals.add(tokens=torch.tensor(2**24))
    totals.add(tokens=torch.tensor(1))
    assert totals.read(two_ranks())["tokens"] == [2.0 * (2**24 + 1)]


def test_sums_from_inference_mode_can_be_read_outside(two_ranks: Callable[..., Any]) -> None:
    totals = RunningTotals(a=1)
    with torch.inference_mode():
        totals.add(a=torch.tensor(1.0))
    assert totals.read(two_ranks()) == {"a": [2.0]}


def test_maximum_over_ranks(two_ranks: Callable[..., Any]) -> None:
    assert max_over_ranks(two_ranks(7.0), 3.0) == 7.0
    assert max_over_ranks(two_ranks(1.0), 3.0) == 3.0
