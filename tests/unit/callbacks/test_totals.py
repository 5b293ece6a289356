"""Running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from retention.callbacks.totals import Totals, largest


def test_tensors_and_numbers_meet_in_one_sum(two_ranks: Callable[..., Any]) -> None:
    totals = Totals(shares=2, samples=1)
    totals.add(shares=torch.tensor([0.5, 1.0]), samples=3)
    totals.add(shares=[0.25, 0.0], samples=torch.tensor(4))
    assert totals.read(two_ranks()) == {"shares": [1.5, 2.0], "samples": [14.0]}


def test_a_rank_without_batches_still_has_all_entries(two_ranks: Callable[..., Any]) -> None:
    assert Totals(a=2, b=1).read(two_ranks()) == {"a": [0.0, 0.0], "b": [0.0]}


def test_reading_does_not_change_the_sums(two_ranks: Callable[..., Any]) -> None:
    totals = Totals(a=1)
    totals.add(a=torch.tensor(1.0))
    assert totals.read(two_ranks()) == totals.read(two_ranks()) == {"a": [2.0]}


def test_counts_beyond_the_precision_of_float32_stay_exact(two_ranks: Callable[..., Any]) -> None:
    totals = Totals(tokens=1)
    totals.add(tokens=torch.tensor(2**24))
    totals.add(tokens=torch.tensor(1))
    assert totals.read(two_ranks())["tokens"] == [2.0 * (2**24 + 1)]


def test_sums_from_inference_mode_can_be_read_outside_it(two_ranks: Callable[..., Any]) -> None:
    totals = Totals(a=1)
    with torch.inference_mode():
        totals.add(a=torch.tensor(1.0))
    assert totals.read(two_ranks()) == {"a": [2.0]}


def test_largest_looks_at_all_ranks(two_ranks: Callable[..., Any]) -> None:
    assert largest(two_ranks(7.0), 3.0) == 7.0
    assert largest(two_ranks(1.0), 3.0) == 3.0
