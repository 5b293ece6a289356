"""Test that the bank is the paper's sketch: a min-heap of the top M scores, filled token by token."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st

from retention.cache import CacheBudget
from retention.cache.eviction import bank_mask, eviction_counts, visible_mask


def heap_history(scores: Sequence[float], size: int) -> list[set[int]]:
    """Return what a min-heap of ``size`` entries holds after each token; of equal scores the earlier token stays."""
    heap: list[tuple[float, int]] = []
    history = []
    for token, score in enumerate(scores):
        if len(heap) < size:
            heapq.heappush(heap, (score, -token))
        else:
            heapq.heappushpop(heap, (score, -token))
        history.append({-entry for _, entry in heap})
    return history


def sketch(scores: Sequence[float], size: int) -> list[set[int]]:
    """Return what is attended to when each token arrives: the heap of the tokens before it, and the token itself."""
    before = [set(), *heap_history(scores, size - 1)[:-1]] if size > 1 else [set() for _ in scores]
    return [held | {token} for token, held in enumerate(before)]


levels = st.integers(-3, 3).map(float) | st.floats(-10, 10, width=32)


@given(scores=st.lists(levels, min_size=1, max_size=40), size=st.integers(1, 12))
def test_the_bank_equals_a_min_heap_at_every_moment(scores: list[float], size: int) -> None:
    budget, values, length = CacheBudget(size=size, sinks=0, window=1), torch.tensor([scores]), len(scores)
    ranks = torch.arange(length)[None]
    expected = sketch(scores, size)
    visible = visible_mask(eviction_counts(values, ranks, budget), ranks, ranks + 1, ranks >= 0)
    for count in range(1, length + 1):
        mask = bank_mask(values[:, :count], ranks[:, :count], torch.tensor([count]), budget)
        assert set(mask[0].nonzero().flatten().tolist()) == expected[count - 1]
        assert set(visible[0, count - 1].nonzero().flatten().tolist()) == expected[count - 1]
        assert len(expected[count - 1]) <= size


@given(scores=st.lists(levels, min_size=1, max_size=40), size=st.integers(1, 12))
def test_the_heap_holds_the_top_scores(scores: list[float], size: int) -> None:
    for count, held in enumerate(heap_history(scores, size), start=1):
        best = sorted(range(count), key=lambda token: (-scores[token], token))[:size]
        assert held == set(best)


def test_a_heap_that_prefers_later_tokens_is_noticed() -> None:
    """Negative control: of equal scores the earlier token stays."""
    budget, values = CacheBudget(size=3, sinks=0, window=1), torch.zeros(1, 6)
    mask = bank_mask(values, torch.arange(6)[None], torch.tensor([6]), budget)
    assert set(mask[0].nonzero().flatten().tolist()) == sketch([0.0] * 6, 3)[-1] == {0, 1, 5} != {3, 4, 5}
