"""Check which test examples are sampled, and that all ranks contribute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.callbacks.example_sampling import ExampleSampler, SampledExample, hash_rows


def add_rows(sampler: ExampleSampler, index: list[int], lengths: list[int], with_classes: bool = True) -> None:
    width = max(lengths)
    rows = torch.tensor(index)
    sampler.add_batch(
        index=rows,
        token_ids=100 * rows.unsqueeze(1) + torch.arange(width),
        lengths=torch.tensor(lengths),
        depth=torch.arange(width).repeat(len(index), 1),
        labels=rows % 2 if with_classes else None,
        predictions=rows % 3 if with_classes else None,
    )


def test_sampled_rows_do_not_depend_on_their_order(two_ranks: Callable[..., Any]) -> None:
    lengths = {7: 2, 4: 2, 9: 4, 1: 3, 5: 1, 8: 1}
    expected = sorted(sorted(lengths, key=lambda row: int(hash_rows(torch.tensor(row))))[:3])
    for order in ([7, 4, 9, 1, 5, 8], [1, 9, 8, 5, 4, 7]):
        sampler = ExampleSampler(3)
        for pair in (order[:2], order[2:4], order[4:]):
            add_rows(sampler, pair, [lengths[row] for row in pair])
        assert sampler.collect(two_ranks()) == [  # the second rank repeats the rows of the first, which count once
            SampledExample(
                row, list(range(100 * row, 100 * row + lengths[row])), list(range(lengths[row])), row % 2, row % 3
            )
            for row in expected
        ]


def test_sampled_rows_are_spread_over_the_split() -> None:
    rows = torch.arange(2000)
    keys = hash_rows(rows)
    assert len(keys.unique()) == 2000 and int(keys.min()) >= 0 and int(keys.max()) < 2**32
    for size in (200, 1000, 2000):
        sampled = keys[:size].topk(100, largest=False).indices
        counts = torch.histc(sampled.float(), bins=4, min=0, max=size)
        assert counts.min() > 12, "of 25 expected in each quarter"


def test_fewer_rows_than_requested(two_ranks: Callable[..., Any]) -> None:
    sampler = ExampleSampler(5)
    add_rows(sampler, [3], [2], with_classes=False)
    assert sampler.collect(two_ranks()) == [SampledExample(3, [300, 301], [0, 1], None, None)]


@pytest.mark.parametrize("size", [0, 2])
def test_no_batches(size: int, two_ranks: Callable[..., Any]) -> None:
    assert ExampleSampler(size).collect(two_ranks()) == []
