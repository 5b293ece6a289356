"""Test the cache in ``generate``, and that unsupported uses are refused with a reason."""

from __future__ import annotations

import warnings
import weakref
from copy import deepcopy
from typing import Any

import pytest
import torch
from tests.unit.cache.decoders import Texts, random_scorers, run_cache, texts, tiny_decoder
from transformers import BertConfig, BertModel, DynamicCache

from retention.cache import CacheBudget, KeyNorm, RetentionCache, retain_cache
from retention.errors import ConfigError

BUDGET = CacheBudget(size=14, sinks=2, window=4)
LARGE = CacheBudget(size=100, sinks=2, window=4)


def generate(model: Any, batch: Texts, cache: Any, **settings: Any) -> Any:
    """Generate 12 more tokens."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    settings = {"do_sample": False, "min_new_tokens": 12, "max_new_tokens": 12, **settings}
    return model.generate(**inputs, past_key_values=cache, **settings)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
@pytest.mark.parametrize("decoder", ["llama", "gpt2", "gpt_neox"])
def test_generation_with_a_large_budget_equals_the_plain_model(decoder: str, settings: dict[str, Any]) -> None:
    model, batch = tiny_decoder(decoder), texts("left")
    with retain_cache(model, random_scorers(model), LARGE) as cache:
        ours = generate(model, batch, cache, **settings)
    assert torch.equal(ours, generate(model, batch, DynamicCache(config=model.config), **settings))


@pytest.mark.parametrize("settings", [{}, {"prefill_chunk_size": 9}], ids=str)
@pytest.mark.parametrize("decoder", ["llama", "mistral", "qwen2", "qwen3", "gpt_neox", "gpt2"])
def test_greedy_tokens_are_those_of_one_pass(decoder: str, settings: dict[str, Any]) -> None:
    model, batch = tiny_decoder(decoder), texts("left")
    policy = random_scorers(model)
    with retain_cache(model, policy, BUDGET) as cache:
        ids = generate(model, batch, cache, **settings)
        assert cache.get_seq_length() == 51
        assert all(layer.keys.shape[2] == BUDGET.size for layer in cache.layers)
    whole = Texts(ids, torch.cat([batch.attention_mask, torch.ones(3, 12, dtype=torch.long)], dim=1))
    logits, _ = run_cache(model, policy, BUDGET, whole, [52])
    assert torch.equal(logits[:, 39:51].argmax(2), ids[:, 40:])


def test_a_small_budget_changes_the_text() -> None:
    """Negative control of the comparisons with the plain model."""
    model, batch = tiny_decoder("llama"), texts("none")
    with retain_cache(model, KeyNorm(), CacheBudget(size=6, sinks=1, window=2)) as cache:
        ours = generate(model, batch, cache)
    assert not torch.equal(ours, generate(model, batch, DynamicCache(config=model.config)))


def test_a_chat_continues() -> None:
    model, batch = tiny_decoder("llama"), texts("none")
    policy = random_scorers(model)
    with retain_cache(model, policy, BUDGET) as cache:
        first = generate(model, batch, cache)
        longer = Texts(torch.cat([first, batch.input_ids[:, :7]], dim=1), torch.ones(3, 59, dtype=torch.long))
        second = generate(model, longer, cache)
    logits, _ = run_cache(model, policy, BUDGET, Texts(second, torch.ones_like(second)), [71])
    assert torch.equal(logits[:, 58:70].argmax(2), second[:, 59:])


@torch.no_grad()
def test_reset_forgets_all_tokens() -> None:
    model, batch = tiny_decoder("llama"), texts("left")
    with retain_cache(model, random_scorers(model), BUDGET) as cache:
        expected = model(batch.input_ids, past_key_values=cache).logits
        cache.reset()
        assert cache.get_seq_length() == 0 and cache.kept == []
        assert torch.equal(model(batch.input_ids, past_key_values=cache).logits, expected)


@torch.no_grad()
def test_other_caches_and_passes_are_untouched() -> None:
    model, batch = tiny_decoder("llama"), texts("left")
    expected = model(batch.input_ids).logits
    with retain_cache(model, KeyNorm(), BUDGET), retain_cache(model, KeyNorm(), BUDGET) as cache:
        assert torch.equal(model(batch.input_ids).logits, expected)
        model(batch.input_ids, past_key_values=cache)
    assert not any(module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
def test_a_detached_cache_is_refused() -> None:
    model, batch = tiny_decoder("llama"), texts("none")
    with retain_cache(model, KeyNorm(), BUDGET) as cache:
        model(batch.input_ids, past_key_values=cache)
    with pytest.raises(ConfigError, match="hooks of this cache are not attached"):
        model(batch.input_ids, past_key_values=cache)


def hooks_on(model: Any) -> int:
    """Count the hooks on a model."""
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("fixed", [False, True])
def test_copies_are_freed_and_detached(fixed: bool) -> None:
    model, batch = tiny_decoder("llama"), texts("none")
    with retain_cache(model, KeyNorm(), BUDGET, fixed=fixed) as cache:
        model(batch.input_ids, past_key_values=cache)
        registered = hooks_on(model)
        turn = deepcopy(cache)
        model(batch.input_ids[:, :1], past_key_values=turn)
        alive = weakref.ref(turn)
        assert hooks_on(model) == 2 * registered and cache.get_seq_length() == 40
        del turn
        assert alive() is None and hooks_on(model) == registered
        first = deepcopy(cache)
        second = deepcopy(first)
        del first
    assert hooks_on(model) == 0
    with pytest.raises(ConfigError, match="hooks of this cache are not attached"):
        model(batch.input_ids[:, :1], past_key_values=second)


def test_cache_that_nobody_uses_any_more_leaves_no_hooks() -> None:
    model = tiny_decoder("llama")
    cache = RetentionCache(model, KeyNorm(), BUDGET)
    assert hooks_on(model) > 0
    del cache
    assert hooks_on(model) == 0


def test_decoder_is_found_inside_peft_and_a_compiled_model() -> None:
    peft = pytest.importorskip("peft")
    model, batch = tiny_decoder("llama"), texts("none")
    with retain_cache(model, KeyNorm(), BUDGET) as cache:
        expected = generate(model, batch, cache)
    compiled: Any = torch.compile(model, backend="eager")
    with retain_cache(compiled, KeyNorm(), BUDGET) as cache:
        assert torch.equal(generate(model, batch, cache), expected)
    settings = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    adapted = peft.get_peft_model(model, settings).eval()  # an adapter that has not been trained changes nothing
    with retain_cache(adapted, KeyNorm(), BUDGET) as cache:
        assert torch.equal(generate(adapted, batch, cache), expected)
        assert all(layer.keys.shape[2] == BUDGET.size for layer in cache.layers)
    assert hooks_on(model) == 0


@pytest.mark.parametrize("fixed", [False, True])
def test_gradient_checkpointing_is_refused(fixed: bool) -> None:
    model, batch = tiny_decoder("llama"), texts("none")
    model.gradient_checkpointing_enable()
    with retain_cache(model, KeyNorm(), BUDGET, fixed=fixed) as cache:
        model.train()
        with pytest.raises(ConfigError, match=r"under gradient checkpointing.*model\.eval"):
            model(batch.input_ids, past_key_values=cache)
        cache.reset()
        model.eval()
        model(batch.input_ids, past_key_values=cache)
        model.train()
        with pytest.raises(ConfigError, match=r"under gradient checkpointing.*model\.eval"):
            model(batch.input_ids[:, :1], past_key_values=cache)


@pytest.mark.parametrize("fixed", [False, True])
def test_generation_without_use_cache_names_the_setting(fixed: bool) -> None:
    model, batch = tiny_decoder("llama"), texts("none")
    with (
        retain_cache(model, KeyNorm(), BUDGET, fixed=fixed) as cache,
        pytest.raises(ConfigError, match="pass use_cache=True"),
    ):
        generate(model, batch, cache, use_cache=False)


@torch.no_grad()
def test_half_precision_runs() -> None:
    for attention in ("sdpa", "eager"):
        model, batch = tiny_decoder("llama", attention).to(torch.bfloat16), texts("left")
        logits, _ = run_cache(model, random_scorers(model), BUDGET, batch, [30, 1, 9])
        assert logits.isfinite().all()


@pytest.mark.parametrize(
    "settings", [{"prompt_lookup_num_tokens": 3}, {"assistant_model": True}], ids=["lookup", "model"]
)
def test_assisted_decoding_is_refused(settings: dict[str, Any]) -> None:
    model, batch = tiny_decoder("llama"), texts("none", lengths=(40,))
    if "assistant_model" in settings:
        settings = {"assistant_model": tiny_decoder("llama")}
    with retain_cache(model, KeyNorm(), BUDGET) as cache, pytest.raises(ConfigError, match="assisted decoding"):
        generate(model, batch, cache, **settings)


@torch.no_grad()
def test_inputs_that_do_not_fit_are_refused() -> None:
    model, batch = tiny_decoder("llama"), texts("none")
    with retain_cache(model, KeyNorm(), BUDGET) as cache:
        model(batch.input_ids, past_key_values=cache)
        with pytest.raises(ConfigError, match="holds 3 sequences, got a batch of 2"):
            model(batch.input_ids[:2], past_key_values=cache)
        with pytest.raises(ConfigError, match=r"attention_mask: must be \[3, 41\]"):
            model(batch.input_ids[:, :1], attention_mask=torch.ones(3, 1), past_key_values=cache)
        cache.reset()
        with pytest.raises(ConfigError, match="attention_mask"):
            model(batch.input_ids, attention_mask=torch.ones(3, 1, 40, 40), past_key_values=cache)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mistral", {"sliding_window": 16}, "sliding_window"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}, "sliding_window"),
        ("gpt2", {"add_cross_attention": True}, "cross-attention"),
        ("llama", {"_attn_implementation": "flash_attention_2"}, "sdpa, eager"),
    ],
)
def test_unsupported_decoders_are_refused(family: str, changes: dict[str, Any], message: str) -> None:
    from tests.unit.cache.decoders import TINY
    from transformers import AutoConfig, AutoModelForCausalLM

    implementation = changes.pop("_attn_implementation", "sdpa")
    config = AutoConfig.for_model(family, **{**TINY[family], **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    model.config._attn_implementation_internal = implementation
    with pytest.raises(ConfigError, match=message):
        RetentionCache(model, KeyNorm(), BUDGET)


def test_other_models_are_refused() -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    with pytest.raises(ConfigError, match=r"'bert' is not supported; .*gpt2"):
        RetentionCache(BertModel(config), KeyNorm(), BUDGET)
    with pytest.raises(ConfigError, match="must be a Hugging Face decoder, got Linear"):
        RetentionCache(torch.nn.Linear(2, 2), KeyNorm(), BUDGET)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("length", [10, 26, 30, 51], ids=str)
def test_another_prompt_needs_a_reset(length: int, fixed: bool) -> None:
    """The cache has read 51 tokens, and ``generate`` then passes no, one, some or all tokens of the prompt."""
    model = tiny_decoder("llama")
    batch, other = texts("none", lengths=(40,)), texts("none", lengths=(length,))
    with retain_cache(model, KeyNorm(), BUDGET, fixed=fixed) as cache:
        generate(model, batch, cache)
        with pytest.raises(ConfigError, match=r"past_key_values: the cache has read 51 tokens.*call reset\(\) before"):
            generate(model, other, cache)
        cache.reset()
        ours = generate(model, other, cache)
    with retain_cache(model, KeyNorm(), BUDGET, fixed=fixed) as cache:
        assert torch.equal(generate(model, other, cache), ours)


def test_another_prompt_with_padding_needs_a_reset() -> None:
    model, batch = tiny_decoder("llama"), texts("left")
    with retain_cache(model, KeyNorm(), BUDGET) as cache:
        generate(model, batch, cache)
        with pytest.raises(ConfigError, match=r"attention_mask: .*call reset\(\)"):
            generate(model, batch, cache)


def test_cache_that_is_not_passed_to_the_model_is_reported() -> None:
    model, batch = tiny_decoder("llama"), texts("none")
    with (
        pytest.warns(UserWarning, match="called without its RetentionCache"),
        retain_cache(model, KeyNorm(), BUDGET),
    ):
        model.generate(batch.input_ids, max_new_tokens=2)


@torch.no_grad()
@pytest.mark.parametrize("used", [False, True], ids=["no_call", "both_calls"])
def test_other_uses_give_no_warning(used: bool) -> None:
    model, batch = tiny_decoder("llama"), texts("none")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with retain_cache(model, KeyNorm(), BUDGET) as cache:
            if used:
                model(batch.input_ids)
                model(batch.input_ids, past_key_values=cache)


@pytest.mark.parametrize(("policy", "given"), [(KeyNorm, "the class KeyNorm"), ("key_norm", "'key_norm'")])
def test_class_or_name_in_place_of_a_policy_is_refused(policy: Any, given: str) -> None:
    with pytest.raises(ConfigError, match=f"policy: must be a CachePolicy, got {given}"):
        RetentionCache(tiny_decoder("llama"), policy, BUDGET)
    with pytest.raises(ConfigError, match="budget: must be a CacheBudget, got 64"):
        RetentionCache(tiny_decoder("llama"), KeyNorm(), 64)  # type: ignore[arg-type]
