"""A bounded cache equals the full model in which later queries do not see the evicted keys."""

from __future__ import annotations

import pytest
import torch
from tests.unit.cache.decoders import (
    CASES,
    Recorder,
    held_masks,
    largest_difference,
    random_scorers,
    run_cache,
    run_masked,
    texts,
    tiny_decoder,
)

from retention.cache import CacheBudget, CachePolicy, KeyNorm, LearnedScores, RandomBank, StreamingLLM
from retention.errors import ConfigError

TOLERANCE = 5e-6
BUDGET = CacheBudget(size=14, sinks=2, window=4)
BUDGETS = {
    "single": BUDGET,
    "blocks": CacheBudget(size=16, sinks=2, window=4, block=5),
    "no_sinks": CacheBudget(size=9, sinks=0, window=1),
    "empty_bank": CacheBudget(size=8, sinks=3, window=5),
}


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize(("decoder", "implementation"), CASES)
def test_eviction_equals_masking(decoder: str, implementation: str, padding: str) -> None:
    model, batch = tiny_decoder(decoder, implementation), texts(padding)
    recorder = Recorder(random_scorers(model))
    logits, _ = run_cache(model, recorder, BUDGET, batch, [40])
    reference = run_masked(model, batch, held_masks(recorder.scores, batch, BUDGET))
    assert largest_difference(logits, reference, batch) < TOLERANCE


@pytest.mark.parametrize("name", BUDGETS)
def test_eviction_equals_masking_at_every_budget(name: str) -> None:
    model, batch, budget = tiny_decoder("llama"), texts("left"), BUDGETS[name]
    recorder = Recorder(random_scorers(model))
    logits, _ = run_cache(model, recorder, budget, batch, [40])
    reference = run_masked(model, batch, held_masks(recorder.scores, batch, budget))
    assert largest_difference(logits, reference, batch) < TOLERANCE


@pytest.mark.parametrize("kind", ["mlp", "linear", "key_norm", "random", "streaming"])
def test_eviction_equals_masking_for_every_policy(kind: str) -> None:
    model, batch = tiny_decoder("qwen3"), texts("left")
    policies: dict[str, CachePolicy] = {"key_norm": KeyNorm(), "random": RandomBank(), "streaming": StreamingLLM()}
    recorder = Recorder(policies[kind] if kind in policies else random_scorers(model, kind))
    logits, _ = run_cache(model, recorder, BUDGET, batch, [11, 1, 28])
    reference = run_masked(model, batch, held_masks(recorder.scores, batch, BUDGET))
    assert largest_difference(logits, reference, batch) < TOLERANCE


@pytest.mark.parametrize(("decoder", "implementation"), CASES)
def test_an_eviction_one_token_late_is_noticed(decoder: str, implementation: str) -> None:
    """Negative control: a reference whose cache has one slot more differs."""
    model, batch = tiny_decoder(decoder, implementation), texts("none")
    recorder = Recorder(random_scorers(model))
    logits, _ = run_cache(model, recorder, BUDGET, batch, [40])
    wrong = CacheBudget(size=BUDGET.size + 1, sinks=BUDGET.sinks, window=BUDGET.window)
    reference = run_masked(model, batch, held_masks(recorder.scores, batch, wrong))
    assert largest_difference(logits, reference, batch) > 100 * TOLERANCE


@pytest.mark.parametrize(("decoder", "implementation"), CASES)
def test_wrong_positions_are_refused(decoder: str, implementation: str) -> None:
    """Positions that continue from the number of held tokens, instead of the number of tokens read, are an error."""
    model, batch = tiny_decoder(decoder, implementation), texts("none")

    class Compacted(type(batch)):  # type: ignore[misc]
        @property
        def position_ids(self) -> torch.Tensor:
            return torch.arange(40).clamp_max(BUDGET.size).expand(3, -1)

    with pytest.raises(ConfigError, match="the cache has read 39 tokens, which the new ones do not follow"):
        run_cache(model, random_scorers(model), BUDGET, Compacted(batch.input_ids, batch.attention_mask), [39, 1])


@pytest.mark.parametrize("chunks", [[40], [1] * 40, [17, 23]], ids=["once", "tokens", "chunks"])
@pytest.mark.parametrize(("decoder", "implementation"), CASES)
def test_a_large_budget_equals_the_plain_model(decoder: str, implementation: str, chunks: list[int]) -> None:
    from transformers import DynamicCache

    model, batch = tiny_decoder(decoder, implementation), texts("none")
    policy: LearnedScores = random_scorers(model)
    logits, kept = run_cache(model, policy, CacheBudget(size=40, sinks=2, window=4), batch, chunks)
    plain, start, cache = [], 0, DynamicCache(config=model.config)
    for size in chunks:
        with torch.no_grad():
            plain.append(model(batch.input_ids[:, start : start + size], past_key_values=cache).logits)
        start += size
    assert torch.equal(logits, torch.cat(plain, dim=1))
    assert all(torch.equal(layer, torch.arange(40).expand(3, -1)) for layer in kept)


def test_a_budget_one_token_short_is_noticed() -> None:
    """Negative control: a single evicted token changes the last logits."""
    model, batch = tiny_decoder("llama"), texts("none")
    policy = random_scorers(model)
    full, _ = run_cache(model, policy, CacheBudget(size=40, sinks=2, window=4), batch, [40])
    short, _ = run_cache(model, policy, CacheBudget(size=39, sinks=2, window=4), batch, [40])
    assert torch.equal(full[:, :-1], short[:, :-1]) or float((full - short)[:, :-1].abs().max()) < TOLERANCE
    assert float((full - short)[:, -1].abs().max()) > 10 * TOLERANCE
