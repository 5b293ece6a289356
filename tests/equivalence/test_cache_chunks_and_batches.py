"""The bank depends neither on the chunks in which tokens arrive, nor on padding, nor on the other sequences."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from tests.unit.cache.decoders import CASES, Texts, largest_difference, random_scorers, run_cache, texts, tiny_decoder
from torch import Tensor

from retention.cache import Arrivals, CacheBudget, CachePolicy, KeyNorm, retain_cache

TOLERANCE = 5e-6
BUDGET = CacheBudget(size=14, sinks=2, window=4)
BLOCKS = CacheBudget(size=16, sinks=2, window=4, block=5)


class ChunkScores(CachePolicy):
    """Score tokens by their place in the chunk, as methods do that rank by the attention of the last queries."""

    def score(self, arrivals: Arrivals) -> Tensor:
        return torch.arange(arrivals.valid.shape[1]).float().expand(arrivals.valid.shape)


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize(("decoder", "implementation"), CASES)
def test_one_pass_equals_chunks_equals_single_tokens(decoder: str, implementation: str, padding: str) -> None:
    model, batch = tiny_decoder(decoder, implementation), texts(padding)
    policy = random_scorers(model)
    for budget in (BUDGET, BLOCKS) if padding == "left" else (BUDGET,):
        logits, kept = run_cache(model, policy, budget, batch, [40])
        for chunks in ([1] * 40, [7, 7, 7, 7, 7, 5], [30, 1, 1, 8]):
            others, others_kept = run_cache(model, policy, budget, batch, chunks)
            assert largest_difference(logits, others, batch) < TOLERANCE
            assert all(torch.equal(one, two) for one, two in zip(kept, others_kept, strict=True))


def test_scores_that_depend_on_the_chunk_are_noticed() -> None:
    """Negative control."""
    model, batch = tiny_decoder("llama"), texts("none")
    logits, kept = run_cache(model, ChunkScores(), BUDGET, batch, [40])
    others, others_kept = run_cache(model, ChunkScores(), BUDGET, batch, [7, 7, 7, 7, 7, 5])
    assert not torch.equal(kept[0], others_kept[0])
    assert largest_difference(logits, others, batch) > 100 * TOLERANCE


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize(("decoder", "implementation"), CASES)
def test_sequences_of_a_batch_are_independent(decoder: str, implementation: str, padding: str) -> None:
    model, batch = tiny_decoder(decoder, implementation), texts(padding)
    policy = random_scorers(model)
    logits, kept = run_cache(model, policy, BUDGET, batch, [25, 1, 14])
    for row in range(3):
        valid = batch.valid[row]
        ids = batch.input_ids[row, valid].unsqueeze(0)
        alone = Texts(ids, torch.ones_like(ids))
        expected, expected_kept = run_cache(model, policy, BUDGET, alone, [ids.shape[1]])
        assert float((logits[row, valid] - expected[0]).abs().max()) < TOLERANCE
        first = int(valid.int().argmax())
        for ours, theirs in zip(kept, expected_kept, strict=True):
            assert (ours[row][ours[row] >= 0] - first).tolist() == theirs[0].tolist()


@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_never_enters_the_bank(padding: str) -> None:
    model, batch = tiny_decoder("gpt2"), texts(padding)
    for chunks in ([40], [1] * 40, [3, 30, 7]):
        _, kept = run_cache(model, random_scorers(model), BUDGET, batch, chunks)
        for layer in kept:
            for row in range(3):
                columns = layer[row][layer[row] >= 0]
                assert batch.valid[row, columns].all()
                assert len(columns) == min(int(batch.valid[row].sum()), BUDGET.size)


def test_unmarked_padding_is_noticed() -> None:
    """Negative control: without the mask padding does enter the bank."""
    model, batch = tiny_decoder("gpt2"), texts("left")
    unmarked = Texts(batch.input_ids, torch.ones_like(batch.attention_mask))
    _, kept = run_cache(model, random_scorers(model), BUDGET, unmarked, [40])
    assert not batch.valid[2, kept[0][2]].all()


@pytest.mark.parametrize("change", ["reorder", "select", "select_bool", "repeat", "copy"])
@pytest.mark.parametrize("decoder", ["llama", "gpt2"])
@torch.no_grad()
def test_changes_of_the_batch_equal_a_batch_built_that_way(decoder: str, change: str) -> None:
    model, batch = tiny_decoder(decoder), texts("left")
    policy = random_scorers(model)
    with retain_cache(model, policy, BUDGET) as cache:
        feed(model, cache, batch, 0, 30)
        rows = torch.arange(3)
        if change == "reorder":
            rows = torch.tensor([2, 0, 0])
            cache.reorder_cache(rows)
        elif change == "select":
            rows = torch.tensor([2, 1])
            cache.batch_select_indices(rows)
        elif change == "select_bool":
            rows = torch.tensor([0, 2])
            cache.batch_select_indices(torch.tensor([True, False, True]))
        elif change == "repeat":
            rows = rows.repeat_interleave(2)
            cache.batch_repeat_interleave(2)
        changed = deepcopy(cache) if change == "copy" else cache
        picked = Texts(batch.input_ids[rows], batch.attention_mask[rows])
        logits = feed(model, changed, picked, 30, 40)
        if change == "copy":
            assert cache.get_seq_length() == 30
            assert torch.equal(feed(model, cache, picked, 30, 40), logits)
            changed.detach()
    expected, _ = run_cache(model, policy, BUDGET, picked, [40])
    assert float((logits - expected[:, 30:])[picked.valid[:, 30:]].abs().max()) < TOLERANCE


@torch.no_grad()
def test_an_unchanged_batch_is_noticed() -> None:
    """Negative control: continuing reordered sequences on a cache in the old order differs."""
    model, batch = tiny_decoder("llama"), texts("none")  # with padding the positions do not fit, which is refused
    picked = Texts(batch.input_ids.flip(0), batch.attention_mask.flip(0))
    with retain_cache(model, KeyNorm(), BUDGET) as cache:
        feed(model, cache, batch, 0, 30)
        logits = feed(model, cache, picked, 30, 40)
    expected, _ = run_cache(model, KeyNorm(), BUDGET, picked, [40])
    assert float((logits - expected[:, 30:])[:, -1].abs().max()) > 100 * TOLERANCE


def feed(model: Any, cache: Any, batch: Texts, start: int, end: int) -> Tensor:
    """Feed some columns and return their logits."""
    output = model(
        batch.input_ids[:, start:end],
        attention_mask=batch.attention_mask[:, :end],
        position_ids=batch.position_ids[:, start:end],
        past_key_values=cache,
    )
    return output.logits  # type: ignore[no-any-return]
