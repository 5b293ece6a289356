"""With a budget per head, evicting equals masking head by head, whatever the chunks, the padding and the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.unit.cache.decoders import (
    CASES,
    Recorder,
    Texts,
    held_masks,
    largest_difference,
    random_scorers,
    run_cache,
    run_masked,
    texts,
    tiny_decoder,
)
from torch import Tensor

from retention.cache import CacheBudget, CachePolicy, KeyNorm, RandomBank, StreamingLLM, retain_cache
from retention.cache.families import HeadCounts
from retention.errors import ConfigError

TOLERANCE = 5e-6
BUDGET = CacheBudget(size=14, sinks=2, window=4, per_head=True)
BLOCKS = replace(BUDGET, size=16, block=5)


def recorded(
    model: Any, policy: CachePolicy, batch: Texts, chunks: Sequence[int], budget: CacheBudget = BUDGET
) -> tuple[Tensor, list[Tensor]]:
    """Return logits and, for each layer, what each query of each head should see, [B, H, T, T]."""
    recorder = Recorder(policy)
    logits, kept = run_cache(model, recorder, budget, batch, chunks)
    heads = HeadCounts.of(model.config).key_value
    assert all(layer.shape == (3, heads, budget.stored(40)) for layer in kept)
    return logits, held_masks(recorder.scores, batch, budget)


@pytest.mark.parametrize(("decoder", "implementation"), CASES)
def test_eviction_equals_masking_head_by_head(decoder: str, implementation: str) -> None:
    model = tiny_decoder(decoder, implementation)
    policy = random_scorers(model, per_head=True)
    for padding in ("none", "left", "right"):
        batch = texts(padding)
        logits, masks = recorded(model, policy, batch, [40])
        assert not torch.equal(masks[0][:, 0], masks[0][:, 1])  # heads do choose differently
        assert largest_difference(logits, run_masked(model, batch, masks), batch) < TOLERANCE


@pytest.mark.parametrize(("decoder", "implementation"), CASES)
def test_masks_of_other_heads_are_noticed(decoder: str, implementation: str) -> None:
    """Negative control: the right masks, given to the wrong heads."""
    model, batch = tiny_decoder(decoder, implementation), texts("none")
    logits, masks = recorded(model, random_scorers(model, per_head=True), batch, [40])
    wrong = run_masked(model, batch, [mask.flip(1) for mask in masks])
    assert largest_difference(logits, wrong, batch) > 100 * TOLERANCE


@pytest.mark.parametrize("kind", ["mlp", "linear", "key_norm", "random"])
def test_eviction_equals_masking_for_every_policy(kind: str) -> None:
    model, batch = tiny_decoder("qwen3"), texts("left")
    policies: dict[str, CachePolicy] = {"key_norm": KeyNorm(), "random": RandomBank()}
    policy = policies[kind] if kind in policies else random_scorers(model, kind, per_head=True)
    for chunks, budget in (([11, 1, 28], BUDGET), ([40], BLOCKS)):
        logits, masks = recorded(model, policy, batch, chunks, budget)
        assert not torch.equal(masks[0][:, 0], masks[0][:, 1])
        assert largest_difference(logits, run_masked(model, batch, masks), batch) < TOLERANCE


@pytest.mark.parametrize("policy", [StreamingLLM(), None], ids=["streaming", "learned"])
def test_scores_that_heads_share_give_the_tokens_of_a_shared_budget(policy: CachePolicy | None) -> None:
    model, batch = tiny_decoder("llama"), texts("left")
    policy = policy or random_scorers(model)
    logits, kept = run_cache(model, policy, BUDGET, batch, [17, 1, 22])
    expected, shared = run_cache(model, policy, replace(BUDGET, per_head=False), batch, [40])
    assert largest_difference(logits, expected, batch) < TOLERANCE
    for heads, layer in zip(kept, shared, strict=True):
        assert all(torch.equal(heads[:, head], layer) for head in range(2))


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize(("decoder", "implementation"), CASES)
def test_chunks_and_other_sequences_do_not_matter(decoder: str, implementation: str, padding: str) -> None:
    model, batch = tiny_decoder(decoder, implementation), texts(padding)
    policy = random_scorers(model, per_head=True)
    logits, kept = run_cache(model, policy, BUDGET, batch, [40])
    for chunks in ([1] * 40, [7, 7, 7, 7, 7, 5]):
        others, others_kept = run_cache(model, policy, BUDGET, batch, chunks)
        assert largest_difference(logits, others, batch) < TOLERANCE
        assert all(torch.equal(one, two) for one, two in zip(kept, others_kept, strict=True))
    ids = batch.input_ids[1, batch.valid[1]].unsqueeze(0)
    alone, alone_kept = run_cache(model, policy, BUDGET, Texts(ids, torch.ones_like(ids)), [ids.shape[1]])
    assert float((logits[1, batch.valid[1]] - alone[0]).abs().max()) < TOLERANCE
    first = int(batch.valid[1].int().argmax())
    assert all(torch.equal(ours[1], theirs[0] + first) for ours, theirs in zip(kept, alone_kept, strict=True))
    short = kept[0][2]  # nine tokens: empty slots follow, and padding is never held
    assert (short >= 0).sum(1).tolist() == [9] * len(short) and batch.valid[2][short[short >= 0]].all()


@pytest.mark.parametrize("decoder", ["llama", "gpt2"])
@torch.no_grad()
def test_beams_carry_the_tokens_of_each_head(decoder: str) -> None:
    model, batch, rows = tiny_decoder(decoder), texts("none"), torch.tensor([2, 0, 0])
    policy = random_scorers(model, per_head=True)
    with retain_cache(model, policy, BUDGET) as cache:
        model(batch.input_ids[:, :30], past_key_values=cache)
        cache.reorder_cache(rows)
        logits = model(batch.input_ids[rows, 30:], past_key_values=cache).logits
        kept = cache.kept
    picked = Texts(batch.input_ids[rows], batch.attention_mask[rows])
    expected, expected_kept = run_cache(model, policy, BUDGET, picked, [40])
    assert float((logits - expected[:, 30:]).abs().max()) < TOLERANCE
    assert all(torch.equal(one, two) for one, two in zip(kept, expected_kept, strict=True))


@pytest.mark.parametrize("decoder", ["llama", "gpt_neox"])
@torch.no_grad()
def test_a_large_budget_equals_the_plain_model(decoder: str) -> None:
    model, batch = tiny_decoder(decoder), texts("none")
    large = replace(BUDGET, size=40)
    logits, kept = run_cache(model, random_scorers(model, per_head=True), large, batch, [17, 1, 22])
    assert largest_difference(logits, model(batch.input_ids).logits, batch) < TOLERANCE
    assert all(torch.equal(layer[:, 0], torch.arange(40).expand(3, -1)) for layer in kept)


@torch.no_grad()
def test_scores_per_head_need_a_budget_per_head() -> None:
    model, batch = tiny_decoder("llama"), texts("none")
    with (
        retain_cache(model, random_scorers(model, per_head=True), replace(BUDGET, per_head=False)) as cache,
        pytest.raises(ConfigError, match=r"per_head=True"),
    ):
        model(batch.input_ids, past_key_values=cache)
