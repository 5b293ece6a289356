"""Test samples of a split: which, and from all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.callbacks.survivors import Example, ExampleBank, scattered


def offer(bank: ExampleBank, index: list[int], lengths: list[int], with_classes: bool = True) -> None:
    width = max(lengths)
    rows = torch.tensor(index)
    bank.offer(
        index=rows,
        token_ids=100 * rows.unsqueeze(1) + torch.arange(width),
        lengths=torch.tensor(lengths),
        depth=torch.arange(width).repeat(len(index), 1),
        labels=rows % 2 if with_classes else None,
        predictions=rows % 3 if with_classes else None,
    )


def test_keeps_the_same_rows_whatever_order_they_come_in(two_ranks: Callable[..., Any]) -> None:
    lengths = {7: 2, 4: 2, 9: 4, 1: 3, 5: 1, 8: 1}
    wanted = sorted(sorted(lengths, key=lambda row: int(scattered(torch.tensor(row))))[:3])
    for order in ([7, 4, 9, 1, 5, 8], [1, 9, 8, 5, 4, 7]):
        bank = ExampleBank(3)
        for pair in (order[:2], order[2:4], order[4:]):
            offer(bank, pair, [lengths[row] for row in pair])
        assert bank.collect(two_ranks()) == [  # the second rank repeats the rows of the first: each counts once
            Example(row, list(range(100 * row, 100 * row + lengths[row])), list(range(lengths[row])), row % 2, row % 3)
            for row in wanted
        ]


def test_rows_come_from_all_over_the_split() -> None:
    rows = torch.arange(2000)
    keys = scattered(rows)
    assert len(keys.unique()) == 2000 and int(keys.min()) >= 0 and int(keys.max()) < 2**32
    for size in (200, 1000, 2000):
        chosen = keys[:size].topk(100, largest=False).indices
        counts = torch.histc(chosen.float(), bins=4, min=0, max=size)
        assert counts.min() > 12, "of 25 expected in each quarter"


def test_fewer_rows_than_asked(two_ranks: Callable[..., Any]) -> None:
    bank = ExampleBank(5)
    offer(bank, [3], [2], with_classes=False)
    assert bank.collect(two_ranks()) == [Example(3, [300, 301], [0, 1], None, None)]


@pytest.mark.parametrize("size", [0, 2])
def test_nothing_offered(size: int, two_ranks: Callable[..., Any]) -> None:
    assert ExampleBank(size).collect(two_ranks()) == []
