"""Decoding in buffers of constant shape equals the dynamic cache, and a compiled decoder is compiled once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.unit.cache.decoders import CASES, Texts, largest_difference, random_scorers, run_cache, texts, tiny_decoder
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from transformers import CompileConfig, DynamicCache

from retention.cache import (
    H2O,
    Arrivals,
    CacheBudget,
    CachePolicy,
    KeyNorm,
    RandomBank,
    RetentionCache,
    StreamingLLM,
    retain_cache,
)
from retention.cache.families import FAMILIES
from retention.cache.fixed import FixedSlots
from retention.cache.policies.base import TokenScorer
from retention.errors import ConfigError

TOLERANCE = 5e-6
BUDGET = CacheBudget(size=14, sinks=2, window=4)
PER_HEAD = replace(BUDGET, per_head=True)


@torch.no_grad()
def decode(
    model: Any,
    policy: CachePolicy,
    budget: CacheBudget,
    batch: Texts,
    prompt: int,
    decoder: Callable[..., Any] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Read a prompt, then single tokens in the fixed form; return logits [B, T, V] and the columns held at the end."""
    with retain_cache(model, policy, budget, fixed=True) as cache:
        return decode_with(cache, model, batch, prompt, decoder), cache.kept


@torch.no_grad()
def decode_with(
    cache: RetentionCache, model: Any, batch: Texts, prompt: int, decoder: Callable[..., Any] | None = None
) -> Tensor:
    ids, positions = batch.input_ids, batch.position_ids
    outputs = [
        model(
            ids[:, :prompt],
            attention_mask=batch.attention_mask[:, :prompt],
            position_ids=positions[:, :prompt],
            past_key_values=cache,
        ).logits
    ]
    for column in range(prompt, ids.shape[1]):
        output = (model if decoder is None else decoder)(
            ids[:, column : column + 1], position_ids=positions[:, column : column + 1], past_key_values=cache
        )
        outputs.append(output.logits.clone())
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("budget", [BUDGET, PER_HEAD], ids=["shared", "per_head"])
@pytest.mark.parametrize(("decoder", "implementation"), CASES)
def test_fixed_slots_equal_the_dynamic_cache(decoder: str, implementation: str, budget: CacheBudget) -> None:
    model = tiny_decoder(decoder, implementation)
    policy = random_scorers(model, per_head=budget.per_head)
    # prompts of one token, shorter and longer than the cache, and one with padding and sequences shorter than the cache
    for padding, prompt in (("none", 1), ("none", 7), ("none", 25), ("left", 36)):
        batch = texts(padding)
        expected, expected_kept = run_cache(model, policy, budget, batch, [40])
        logits, kept = decode(model, policy, budget, batch, prompt)
        assert largest_difference(logits, expected, batch) < TOLERANCE
        assert all(torch.equal(one, two) for one, two in zip(kept, expected_kept, strict=True))


@pytest.mark.parametrize("policy", [KeyNorm(), RandomBank(), StreamingLLM()], ids=lambda policy: type(policy).__name__)
def test_fixed_slots_equal_the_dynamic_cache_for_every_policy(policy: CachePolicy) -> None:
    model, batch = tiny_decoder("qwen2"), texts("none")
    for budget in (PER_HEAD, CacheBudget(size=9, sinks=0, window=1), CacheBudget(size=8, sinks=3, window=5)):
        # key norms of equal tokens differ by rounding, so both read the same chunks
        expected, expected_kept = run_cache(model, policy, budget, batch, [12, *[1] * 28])
        logits, kept = decode(model, policy, budget, batch, 12)
        assert largest_difference(logits, expected, batch) < TOLERANCE
        assert all(torch.equal(one, two) for one, two in zip(kept, expected_kept, strict=True))


def test_equal_scores_leave_in_the_order_of_the_dynamic_cache() -> None:
    class Ties(CachePolicy):
        def score(self, arrivals: Any) -> Tensor:
            return (arrivals.ranks % 3).float()

    model, batch = tiny_decoder("llama"), texts("none")
    _, expected = run_cache(model, Ties(), BUDGET, batch, [40])
    _, kept = decode(model, Ties(), BUDGET, batch, 20)
    assert all(torch.equal(one, two) for one, two in zip(kept, expected, strict=True))


def test_another_token_that_leaves_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with scores of the opposite sign while decoding, tokens and logits differ."""
    model, batch = tiny_decoder("llama"), texts("none")
    policy = random_scorers(model)
    expected, expected_kept = run_cache(model, policy, BUDGET, batch, [40])
    finish = FixedSlots.finish_token

    def finish_with_opposite(fixed: FixedSlots, scorer: TokenScorer) -> None:
        def opposite(arrivals: Sequence[Arrivals], states: Tensor | None) -> tuple[Tensor, Tensor | None]:
            scores, states = scorer(arrivals, states)
            return -scores, states

        finish(fixed, opposite)

    monkeypatch.setattr(FixedSlots, "finish_token", finish_with_opposite)
    logits, kept = decode(model, policy, BUDGET, batch, 12)
    assert not all(torch.equal(one, two) for one, two in zip(kept, expected_kept, strict=True))
    assert largest_difference(logits, expected, batch) > 100 * TOLERANCE


@pytest.mark.parametrize("change", ["reorder", "select", "repeat", "copy"])
@torch.no_grad()
def test_changes_of_the_batch_equal_a_batch_built_that_way(change: str) -> None:
    model, batch = tiny_decoder("llama"), texts("none")
    policy, rows = random_scorers(model), torch.arange(3)
    with retain_cache(model, policy, BUDGET, fixed=True) as cache:
        decode_with(cache, model, Texts(batch.input_ids[:, :30], batch.attention_mask[:, :30]), 20)
        if change == "reorder":
            rows = torch.tensor([2, 0, 0])
            cache.reorder_cache(rows)
        elif change == "select":
            rows = torch.tensor([2, 1])
            cache.batch_select_indices(rows)
        elif change == "repeat":
            rows = rows.repeat_interleave(2)
            cache.batch_repeat_interleave(2)
        changed = deepcopy(cache) if change == "copy" else cache
        ids = batch.input_ids[rows, 30:]
        logits = [model(ids[:, at : at + 1], past_key_values=changed).logits for at in range(10)]
        if change == "copy":
            assert cache.get_seq_length() == 30
            changed.detach()
    picked = Texts(batch.input_ids[rows], batch.attention_mask[rows])
    expected, _ = run_cache(model, policy, BUDGET, picked, [40])
    assert float((torch.cat(logits, dim=1) - expected[:, 30:]).abs().max()) < TOLERANCE


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"prefill_chunk_size": 9}], ids=str)
@pytest.mark.parametrize("padding", ["none", "left"])
def test_generation_equals_that_of_the_dynamic_cache(
    padding: str, settings: dict[str, Any], implementation: str
) -> None:
    model, batch = tiny_decoder("llama", implementation), texts(padding)
    policy = random_scorers(model, per_head=True)
    settings = {"do_sample": False, "min_new_tokens": 12, "max_new_tokens": 12, **settings}
    results = []
    for fixed in (False, True):
        with retain_cache(model, policy, PER_HEAD, fixed=fixed) as cache:
            inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            first = model.generate(**inputs, past_key_values=cache, **settings)
            mask = torch.cat([batch.attention_mask, torch.ones(3, 17, dtype=torch.long)], dim=1)
            longer = torch.cat([first, batch.input_ids[:, -5:]], dim=1)  # a further turn of a chat
            if "num_beams" not in settings:
                results.append(model.generate(input_ids=longer, attention_mask=mask, past_key_values=cache, **settings))
            results.append(first)
    half = len(results) // 2
    assert all(torch.equal(one, two) for one, two in zip(results[:half], results[half:], strict=True))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("decoder", FAMILIES)
def test_every_family_generates_the_tokens_of_the_dynamic_cache(
    decoder: str, padding: str, implementation: str
) -> None:
    model, batch = tiny_decoder(decoder, implementation), texts(padding)
    policy = random_scorers(model)
    settings = {"do_sample": False, "min_new_tokens": 12, "max_new_tokens": 12}
    results = []
    for fixed in (False, True):
        with retain_cache(model, policy, BUDGET, fixed=fixed) as cache:
            inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            results.append(model.generate(**inputs, past_key_values=cache, **settings))
    assert torch.equal(*results)


@torch.no_grad()
def test_masks_for_layers_of_other_types_are_refused() -> None:
    model, batch = tiny_decoder("qwen2"), texts("none")
    masks = {"full_attention": None, "sliding_attention": None}
    with (
        retain_cache(model, KeyNorm(), BUDGET, fixed=True) as cache,
        pytest.raises(ConfigError, match="attention_mask: layers of other types than full_attention are not supported"),
    ):
        model(batch.input_ids, attention_mask=masks, past_key_values=cache)


@torch.no_grad()
def test_uses_that_fixed_slots_do_not_support_are_refused() -> None:
    model, batch = tiny_decoder("llama", "eager"), texts("none")
    with pytest.raises(ConfigError, match="fixed: H2O renews its scores with every pass"):
        RetentionCache(model, H2O(), BUDGET, fixed=True)
    with pytest.raises(ConfigError, match="set block to 1"):
        RetentionCache(model, KeyNorm(), CacheBudget(size=16, sinks=2, window=4, block=2), fixed=True)
    assert not any(module._forward_pre_hooks for module in model.modules())
    with retain_cache(model, KeyNorm(), BUDGET, fixed=True) as cache:
        model(batch.input_ids, past_key_values=cache)
        with pytest.raises(ConfigError, match="holds 3 sequences, got a batch of 2"):
            model(batch.input_ids[:2, :1], past_key_values=cache)
        mask = torch.ones(3, 41)
        mask[1, -1] = 0
        with pytest.raises(ConfigError, match="decoded tokens must be real"):
            model(batch.input_ids[:, :1], attention_mask=mask, past_key_values=cache)
    with pytest.raises(ConfigError, match="hooks of this cache are not attached"):
        model(batch.input_ids[:, :1], past_key_values=cache)


@torch.no_grad()
def test_buffers_hold_m_tokens_and_are_used_again_after_a_reset() -> None:
    model, batch = tiny_decoder("llama"), texts("none")
    policy = random_scorers(model)
    with retain_cache(model, policy, BUDGET, fixed=True) as cache:
        assert cache.is_compileable
        addresses = []
        for _ in range(2):
            logits = decode_with(cache, model, batch, 30)
            layers: list[Any] = list(cache.layers)
            assert all(layer.keys.shape == (3, 2, BUDGET.size, 8) for layer in layers)
            addresses.append([layer.keys.data_ptr() for layer in layers])
            cache.reset()
            assert cache.get_seq_length() == 0 and cache.kept == []
        assert addresses[0] == addresses[1]
    assert largest_difference(logits, run_cache(model, policy, BUDGET, batch, [40])[0], batch) < TOLERANCE


def compiled_once(decoder: str, implementation: str, budget: CacheBudget, policy: CachePolicy | None = None) -> None:
    """Decode more than 50 tokens past M twice, and check results and number of compilations."""
    torch._dynamo.reset()
    model = tiny_decoder(decoder, implementation)
    policy = policy or random_scorers(model, per_head=budget.per_head)
    batch, counter = texts("none", lengths=(76, 76)), CompileCounter()
    expected, expected_kept = run_cache(model, policy, budget, batch, [12, *[1] * 64])
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with retain_cache(model, policy, budget, fixed=True) as cache:
        for _ in range(2):
            cache.reset()
            logits = decode_with(cache, model, batch, 12, compiled)
            assert counter.frame_count == 1
            assert largest_difference(logits, expected, batch) < TOLERANCE
            assert all(torch.equal(one, two) for one, two in zip(cache.kept, expected_kept, strict=True))


def test_a_compiled_decoder_is_compiled_once() -> None:
    compiled_once("llama", "sdpa", BUDGET)


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "implementation"), CASES)
def test_every_family_is_compiled_once(decoder: str, implementation: str) -> None:
    compiled_once(decoder, implementation, PER_HEAD)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [RandomBank(), KeyNorm(), StreamingLLM()], ids=lambda policy: type(policy).__name__)
def test_every_policy_is_compiled_once(policy: CachePolicy) -> None:
    compiled_once("llama", "sdpa", PER_HEAD, policy)


@torch.no_grad()
def test_recompilations_of_the_dynamic_cache_are_noticed() -> None:
    """Negative control: the counter sees that shapes grow."""
    torch._dynamo.reset()
    model, counter = tiny_decoder("llama"), CompileCounter()
    batch = texts("none", lengths=(20,))
    compiled, cache = torch.compile(model, backend=counter), DynamicCache(config=model.config)
    for column in range(20):
        compiled(batch.input_ids[:, column : column + 1], past_key_values=cache)
    assert counter.frame_count > 1


@pytest.mark.slow
def test_compiled_code_equals_the_dynamic_cache() -> None:
    torch._dynamo.reset()
    model, batch = tiny_decoder("llama"), texts("none", lengths=(76, 76))
    policy = random_scorers(model)
    expected, expected_kept = run_cache(model, policy, BUDGET, batch, [76])
    logits, kept = decode(model, policy, BUDGET, batch, 12, torch.compile(model, fullgraph=True))
    assert largest_difference(logits, expected, batch) < TOLERANCE
    assert all(torch.equal(one, two) for one, two in zip(kept, expected_kept, strict=True))


@pytest.mark.slow
def test_generate_compiles_the_decoder_once() -> None:
    """As transformers does by itself on a GPU: the prompt is not compiled, and all tokens share one graph."""
    torch._dynamo.reset()
    model, batch = tiny_decoder("llama"), texts("left")
    policy, counter = random_scorers(model), CompileCounter()
    backend = lambda graph, inputs: counter(graph, inputs)  # noqa: E731 (transformers copies other objects)
    config = CompileConfig(backend=backend, mode=None, fullgraph=True)  # type: ignore[arg-type]
    config._compile_all_devices = True
    settings = {"do_sample": False, "min_new_tokens": 30, "max_new_tokens": 30}
    results = []
    for fixed in (False, True):
        with retain_cache(model, policy, BUDGET, fixed=fixed) as cache:
            inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            compiled = {"compile_config": config} if fixed else {}
            results.append(model.generate(**inputs, past_key_values=cache, **settings, **compiled))
    assert counter.frame_count == 1
    assert torch.equal(*results)
