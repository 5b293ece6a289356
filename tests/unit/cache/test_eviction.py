"""Test which tokens are held against a cache in plain Python that drops the worst token one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cache.decoders import simulate
from torch import Tensor

from retention.cache import Arrivals, CacheBudget, CachePolicy
from retention.cache.eviction import NEVER, bank_mask, eviction_counts, leaving_slot, visible_mask
from retention.cache.layer import RetentionLayer
from retention.cache.step import Step
from retention.errors import ConfigError


@st.composite
def budgets(draw: st.DrawFn) -> CacheBudget:
    sinks, window, block = draw(st.integers(0, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    return CacheBudget(
        size=sinks + window + block - 1 + draw(st.integers(0, 6)), sinks=sinks, window=window, block=block
    )


@st.composite
def score_rows(draw: st.DrawFn, rows: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    levels = draw(st.sampled_from([1, 3, 1000]))  # few levels make ties
    length = draw(st.integers(1, 40))
    return torch.randint(-levels, levels + 1, (rows, length), generator=generator) / levels


@given(budget=budgets(), scores=score_rows())
def test_bank_equals_a_plain_cache_at_every_moment(budget: CacheBudget, scores: Tensor) -> None:
    for count, held in enumerate(simulate(scores[0].tolist(), budget), start=1):
        mask = bank_mask(scores[:, :count], torch.arange(count)[None], torch.tensor([count]), budget)
        assert set(mask[0].nonzero().flatten().tolist()) == held
        assert len(held) == budget.stored(count) <= budget.size


@given(budget=budgets(), scores=score_rows(rows=2))
def test_one_leaving_slot_is_that_of_the_bank(budget: CacheBudget, scores: Tensor) -> None:
    budget = replace(budget, block=1)
    held = torch.arange(min(budget.size, scores.shape[1])).expand(2, 1, -1)
    for newest in range(budget.size, scores.shape[1]):
        ranks = torch.cat([held, torch.full((2, 1, 1), newest)], dim=2)
        values = scores.unsqueeze(1).gather(2, ranks)
        slot = leaving_slot(values, ranks, torch.full((2, 1, 1), newest + 1 - budget.window), budget.sinks)
        keep = bank_mask(values[:, 0], ranks[:, 0], torch.full((2,), newest + 1), budget)
        assert torch.equal(slot, (~keep).int().argmax(1, keepdim=True)) and bool((keep.sum(1) == budget.size).all())
        held = ranks[:, 0][keep].view(2, 1, -1)


def test_an_empty_slot_leaves_first() -> None:
    scores, ranks = torch.tensor([[[5.0, 0.0, 1.0, -2.0, 3.0]]]), torch.tensor([[[0, 1, 2, -1, 3]]])
    assert leaving_slot(scores, ranks, torch.tensor([[[3]]]), 1).item() == 3
    assert leaving_slot(scores, ranks.clamp_min(2), torch.tensor([[[3]]]), 1).item() == 3  # negative control: the worst
    assert leaving_slot(scores, torch.arange(5).view(1, 1, 5), torch.tensor([[[3]]]), 1).item() == 1


@given(budget=budgets(), scores=score_rows())
def test_queries_of_a_chunk_see_what_a_plain_cache_holds(budget: CacheBudget, scores: Tensor) -> None:
    ranks = torch.arange(scores.shape[1])[None]
    evicted = eviction_counts(scores, ranks, budget)
    visible = visible_mask(evicted, ranks, ranks + 1, ranks >= 0)
    for query, held in enumerate(simulate(scores[0].tolist(), budget)):
        assert set(visible[0, query].nonzero().flatten().tolist()) == held


def test_another_window_is_noticed() -> None:
    """Negative control of both comparisons."""
    budget = CacheBudget(size=8, sinks=1, window=3)
    scores, ranks = torch.randn(1, 30, generator=torch.Generator().manual_seed(0)), torch.arange(30)[None]
    wrong = replace(budget, window=4)
    held = simulate(scores[0].tolist(), budget)[-1]
    assert set(bank_mask(scores, ranks, torch.tensor([30]), wrong)[0].nonzero().flatten().tolist()) != held
    assert not torch.equal(eviction_counts(scores, ranks, budget), eviction_counts(scores, ranks, wrong))


def test_comparisons_in_pieces_give_the_same_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = CacheBudget(size=12, sinks=1, window=3, block=2)
    scores, ranks = torch.randn(2, 50), torch.arange(50).expand(2, -1)
    expected = eviction_counts(scores, ranks, budget)
    monkeypatch.setattr("retention.cache.eviction._COMPARISONS_AT_ONCE", 100)
    assert torch.equal(eviction_counts(scores, ranks, budget), expected)
    assert (expected[:, 0] == NEVER).all() and (expected <= 50).sum() == 2 * (50 - budget.stored(50))


class GivenScores(CachePolicy):
    """Return prepared scores [B, T] by column."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores, self.start = scores, 0

    def score(self, arrivals: Arrivals) -> Tensor:
        length = arrivals.valid.shape[1]
        part = self.scores[:, self.start : self.start + length]
        self.start += length
        return part


def feed(layer: RetentionLayer, valid: Tensor, sizes: list[int]) -> None:
    """Pass columns to a layer whose keys are the column numbers."""
    before, start = [0] * len(valid), 0
    for size in sizes:
        part = valid[:, start : start + size]
        size = part.shape[1]
        if not size:
            return
        step = Step.build(start, part, size, before, valid.device)
        before = list(step.totals)
        layer.prepare(step, torch.zeros(len(valid), size, 4), None, additive=False)
        keys = torch.arange(start, start + size).float()[None, None, :, None].expand(len(valid), 2, -1, 3)
        layer.update(keys, keys + 0.5)
        start += size
        assert layer.slots is not None
        assert layer.slots.keys.shape[2] <= layer.budget.size
        assert layer.slots.keys.untyped_storage().nbytes() <= 4 * len(valid) * 2 * layer.budget.size * 3


@settings(deadline=None)
@given(
    budget=budgets(),
    scores=score_rows(rows=3),
    chunks=st.lists(st.integers(1, 12), min_size=40, max_size=40),
    padding=st.sampled_from(["none", "left", "right", "anywhere"]),
    seed=st.integers(0, 1000),
)
def test_the_budget_is_never_exceeded_and_chunks_do_not_matter(
    budget: CacheBudget, scores: Tensor, chunks: list[int], padding: str, seed: int
) -> None:
    length = scores.shape[1]
    generator = torch.Generator().manual_seed(seed)
    limits = torch.randint(0, length + 1, (3, 1), generator=generator)
    columns = torch.arange(length)
    valid = {
        "none": torch.ones(3, length, dtype=torch.bool),
        "left": columns >= limits,
        "right": columns < limits,
        "anywhere": torch.rand(3, length, generator=generator) < 0.7,
    }[padding]
    held = []
    for sizes in ([length], [1] * length, chunks):
        layer = RetentionLayer(0, GivenScores(scores), budget)
        feed(layer, valid, sizes)
        slots = layer.slots
        assert slots is not None
        held.append(slots.positions)
        for row in range(3):
            real = columns[valid[row]]
            history = simulate(scores[row, real].tolist(), budget)
            expected = real[sorted(history[-1])].tolist() if history else []
            positions = slots.positions[row, 0]
            ours = positions[positions >= 0]
            assert ours.tolist() == expected
            assert slots.keys[row, 1, : len(ours), 2].tolist() == expected
            assert slots.values[row, 0, : len(ours), 0].tolist() == [column + 0.5 for column in expected]
    assert torch.equal(held[0], held[1]) and torch.equal(held[0], held[2])


def test_scores_that_are_no_numbers_rank_last() -> None:
    budget = CacheBudget(size=5, sinks=1, window=2)
    scores = torch.tensor([[0.0, 1.0, torch.nan, -torch.inf, 2.0, torch.nan, 0.0, 0.0, torch.inf]])
    layer = RetentionLayer(0, GivenScores(scores), budget)
    feed(layer, torch.ones(1, 9, dtype=torch.bool), [4, 1, 4])
    assert layer.slots is not None
    assert layer.slots.positions.tolist() == [[[0, 1, 4, 7, 8]]]


def test_a_policy_with_scores_of_another_shape_is_refused() -> None:
    layer = RetentionLayer(0, GivenScores(torch.zeros(2, 3, 1)), CacheBudget())
    with pytest.raises(ConfigError, match=r"score must return a tensor \(2, 3\) or \(2, 1, 3\)"):
        feed(layer, torch.ones(2, 3, dtype=torch.bool), [3])


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("sinks", {"sinks": -1}),
        ("window", {"window": 0}),
        ("block", {"block": 0}),
        ("size", {"size": 9, "sinks": 4, "window": 6}),
        ("size", {"size": 12, "sinks": 4, "window": 6, "block": 4}),
    ],
)
def test_budget_refuses_values_out_of_range(key: str, values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{key}: must be"):
        CacheBudget(**values)
