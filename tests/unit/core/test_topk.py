"""Test token selection against a plain Python ranking."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from retention.core.topk import span_means, topk_mask


def ranked(scores: list[float], count: int, valid: list[bool], protected: list[bool]) -> set[int]:
    """Rank protected tokens first, then by descending score, then by position."""
    real = [position for position, is_real in enumerate(valid) if is_real]
    is_protected = [position for position in real if protected[position]]
    order = sorted(real, key=lambda position: (not protected[position], -scores[position], position))
    return set(order[: max(min(count, len(real)), len(is_protected))])


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size, length = draw(st.integers(1, 4)), draw(st.integers(1, 24))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    levels = draw(st.sampled_from([1, 2, 3, 1000]))  # few levels make ties
    scores = torch.randint(-levels, levels + 1, (size, length), generator=generator) / levels
    counts = torch.randint(0, length + 3, (size,), generator=generator)
    valid = torch.rand(size, length, generator=generator) < draw(st.sampled_from([0.5, 0.9, 1.1]))
    protected = torch.rand(size, length, generator=generator) < draw(st.sampled_from([-1.0, 0.2, 0.8]))
    return scores, counts, valid, protected


@given(batch=batches())
def test_topk_equals_a_plain_ranking(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    scores, counts, valid, protected = batch
    keep = topk_mask(scores, counts, valid, protected)
    for row in range(len(scores)):
        expected = ranked(scores[row].tolist(), int(counts[row]), valid[row].tolist(), protected[row].tolist())
        assert set(keep[row].nonzero().flatten().tolist()) == expected


@given(batch=batches())
def test_topk_meets_the_count_keeps_protected_tokens_and_drops_padding(
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    scores, counts, valid, protected = batch
    keep = topk_mask(scores, counts, valid, protected)
    is_protected = protected & valid
    assert not (keep & ~valid).any()
    assert (keep | ~is_protected).all()
    assert torch.equal(keep.sum(1), torch.maximum(torch.minimum(counts, valid.sum(1)), is_protected.sum(1)))


def test_ties_keep_the_earlier_tokens() -> None:
    keep = topk_mask(torch.zeros(1, 9), torch.tensor([4]), torch.ones(1, 9).bool(), torch.zeros(1, 9).bool())
    assert keep.nonzero()[:, 1].tolist() == [0, 1, 2, 3]


def test_nan_ranks_below_every_number_and_takes_no_place_of_a_protected_token() -> None:
    scores = torch.tensor([[torch.nan, -1.0, torch.nan, 2.0, -torch.inf, torch.nan]])
    everything, protected = torch.ones(1, 6, dtype=torch.bool), torch.tensor([[True, *[False] * 4, True]])
    keep = topk_mask(scores, torch.tensor([3]), everything, protected)
    assert keep[0].nonzero().flatten().tolist() == [0, 3, 5]
    keep = topk_mask(torch.full((1, 6), torch.nan), torch.tensor([3]), everything, protected)
    assert keep[0].nonzero().flatten().tolist() == [0, 1, 5]


def test_topk_accepts_half_precision_scores_with_gradients() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5]], dtype=torch.bfloat16, requires_grad=True)
    keep = topk_mask(scores, torch.tensor([1]), torch.ones(1, 3).bool(), torch.zeros(1, 3).bool())
    assert keep.tolist() == [[False, True, False]]


def test_span_means_average_the_free_tokens_of_a_span() -> None:
    scores = torch.tensor([[9.0, 1.0, 3.0, 5.0, 0.0, 7.0]], requires_grad=True)
    spans = torch.tensor([[0, 1, 1, 3, 3, 3]])
    free = torch.tensor([[False, True, True, True, True, False]])
    means = span_means(scores, spans, free)
    assert means.tolist() == [[9.0, 2.0, 2.0, 2.5, 2.5, 7.0]]
    means[0, 1].backward()
    assert scores.grad is not None and scores.grad.tolist() == [[0.0, 0.5, 0.5, 0.0, 0.0, 0.0]]


@given(data=st.data())
def test_at_most_one_span_is_kept_in_part(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    spans = torch.tensor([[start for start, size in zip(starts, sizes, strict=True) for _ in range(size)]])
    values = data.draw(st.lists(st.sampled_from([0.1, 0.3, 0.7]), min_size=spans.shape[1], max_size=spans.shape[1]))
    count = data.draw(st.integers(1, spans.shape[1]))
    valid = torch.ones_like(spans, dtype=torch.bool)
    scores = span_means(torch.tensor([values]), spans, valid)
    keep = topk_mask(scores, torch.tensor([count]), valid, ~valid)[0]
    assert int(keep.sum()) == count
    kept = [keep[start : start + size].tolist() for start, size in zip(starts, sizes, strict=True)]
    cut = [part for part in kept if any(part) and not all(part)]
    assert len(cut) <= 1, "at most one span is kept in part"
    assert all(part == sorted(part, reverse=True) for part in cut), "and its first tokens are kept"
