"""Policies that rank by attention: evicting equals masking, and an oracle in plain Python chooses the same tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.unit.cache.decoders import Texts, largest_difference, run_cache, run_masked, texts, tiny_decoder
from torch import Tensor

from retention.cache import H2O, TOVA, CacheBudget, ExpectedAttention, RescoringPolicy, SnapKV, retain_cache
from retention.cache.families import FAMILIES, HeadCounts, attention_modules

TOLERANCE = 5e-6
BUDGET = CacheBudget(size=14, sinks=2, window=4)
BLOCKS = CacheBudget(size=16, sinks=2, window=4, block=5)
PER_HEAD = replace(BUDGET, per_head=True)
POLICIES: dict[str, Callable[[], RescoringPolicy]] = {
    "h2o": H2O,
    "tova": TOVA,
    "snapkv": lambda: SnapKV(queries=3, kernel=3),
    "expected_attention": lambda: ExpectedAttention(horizon=8),
}
CASES = [(name, family) for name in POLICIES for family in FAMILIES if name != "expected_attention"]
CASES += [("expected_attention", family) for family in ("llama", "mistral", "qwen2", "qwen3")]


@torch.no_grad()
def seen_by_each_query(model: Any, policy: RescoringPolicy, budget: CacheBudget, batch: Texts) -> tuple[Tensor, list]:
    """Feed single tokens; return logits [B, T, V] and per layer which columns each query attended to, [B, G, T, T]."""
    rows, width = batch.input_ids.shape
    groups = HeadCounts.of(model.config).key_value if budget.per_head else 1
    masks = [torch.zeros(rows, groups, width, width, dtype=torch.bool) for _ in attention_modules(model)]
    outputs = []
    with retain_cache(model, policy, budget) as cache:
        for end in range(1, width + 1):
            output = model(
                batch.input_ids[:, end - 1 : end],
                attention_mask=batch.attention_mask[:, :end],
                position_ids=batch.position_ids[:, end - 1 : end],
                past_key_values=cache,
            )
            outputs.append(output.logits)
            for mask, kept in zip(masks, cache.kept, strict=True):
                mask[:, :, end - 1, end - 1] = True  # padding attends to itself
                for row, group in itertools.product(range(rows), range(groups)):
                    columns = kept[row, group] if budget.per_head else kept[row]
                    mask[row, group, end - 1, columns[columns >= 0]] = True
    return torch.cat(outputs, dim=1), masks


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize(("name", "decoder"), CASES)
def test_eviction_equals_masking(name: str, decoder: str, padding: str) -> None:
    model, batch = tiny_decoder(decoder, "eager"), texts(padding)
    for budget in (BUDGET, BLOCKS, PER_HEAD):
        logits, masks = seen_by_each_query(model, POLICIES[name](), budget, batch)
        assert all(int(mask.sum(3).max()) == budget.size for mask in masks)
        assert largest_difference(logits, run_masked(model, batch, masks), batch) < TOLERANCE


def test_one_more_masked_key_is_noticed() -> None:
    """Negative control."""
    model, batch = tiny_decoder("llama", "eager"), texts("none")
    logits, masks = seen_by_each_query(model, H2O(), BUDGET, batch)
    masks[1][:, :, -1, 0] = False
    assert largest_difference(logits, run_masked(model, batch, masks), batch) > 100 * TOLERANCE


def oracle(name: str, attention: Tensor, budget: CacheBudget) -> list[set[int]]:
    """Return what a cache in plain Python holds after each arrival, from the attention [T, T] of the masked model."""
    held: list[int] = []
    history = []
    for newest in range(len(attention)):
        earlier = attention[:newest]
        held.append(newest)
        while len(held) > budget.size:
            if name == "h2o":
                score = {token: float(earlier[:, token].sum()) for token in held}
            elif name == "tova":
                score = {token: float(earlier[-1, token]) for token in held}
            else:
                before = [token for token in held if token != newest]  # scores are those of the pass before
                votes = [float(earlier[-3:, token].sum()) for token in before]
                score = {token: max(votes[max(0, at - 1) : at + 2]) for at, token in enumerate(before)}
            free = [token for token in held if budget.sinks <= token <= newest - budget.window]
            held.remove(min(free, key=lambda token: (score[token], -token)))
        history.append(set(held))
    return history


@torch.no_grad()
def masked_attention(model: Any, batch: Texts, masks: list[Tensor]) -> list[Tensor]:
    """Return the attention of the masked full model, mean over the heads of a group, [B, G, T, T] per layer."""
    maps: list[Tensor] = []
    groups = masks[0].shape[1]
    handles = [
        module.register_forward_hook(
            lambda module, args, output: maps.append(output[1].unflatten(1, (groups, -1)).mean(2))
        )
        for module in attention_modules(model)
    ]
    run_masked(model, batch, masks)
    for handle in handles:
        handle.remove()
    return maps


@pytest.mark.parametrize("budget", [BUDGET, PER_HEAD], ids=["shared", "per_head"])
@pytest.mark.parametrize("name", ["h2o", "tova", "snapkv"])
def test_an_oracle_chooses_the_same_tokens(name: str, budget: CacheBudget) -> None:
    model, batch = tiny_decoder("llama", "eager"), texts("none")
    _, masks = seen_by_each_query(model, POLICIES[name](), budget, batch)
    assert masks[0].shape[1] == (2 if budget.per_head else 1)
    for mask, attention in zip(masks, masked_attention(model, batch, masks), strict=True):
        for seen, weights in zip(mask.flatten(0, 1), attention.flatten(0, 1), strict=True):
            history = oracle(name, weights.double(), budget)
            assert [set(row.nonzero().flatten().tolist()) for row in seen] == history


@pytest.mark.parametrize(("name", "other"), [("h2o", "tova"), ("tova", "snapkv"), ("snapkv", "h2o")])
def test_the_oracle_of_another_policy_is_noticed(name: str, other: str) -> None:
    """Negative control."""
    model, batch = tiny_decoder("llama", "eager"), texts("none")
    _, masks = seen_by_each_query(model, POLICIES[name](), BUDGET, batch)
    attention = masked_attention(model, batch, masks)[0][0, 0].double()
    assert [set(seen.nonzero().flatten().tolist()) for seen in masks[0][0, 0]] != oracle(other, attention, BUDGET)


@torch.no_grad()
def test_expected_attention_matches_sampled_queries() -> None:
    """The closed form equals the mean weight of queries sampled from the Gaussian, each rotated to one position."""
    torch.manual_seed(0)
    model = tiny_decoder("llama")
    module, rotary = attention_modules(model)[0], model.model.rotary_emb
    from retention.cache import Observation

    states = torch.randn(1, 50, 32) * 2
    keys, values = torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    valid, held = torch.ones(1, 50, dtype=torch.bool), torch.ones(1, 1, 9, dtype=torch.bool)
    counts = torch.tensor([50])
    observation = Observation(module, rotary, states, None, keys, values, valid, held, counts)
    _, scores = ExpectedAttention(horizon=1, eps=0.0).rescore(observation, torch.zeros(1, 1, 9, 0))
    queries = module.q_proj(states).view(50, 4, 8).transpose(0, 1)
    cosines, sines = rotary(states, torch.tensor([[50]]))
    weights = []
    for head in range(4):
        mean, covariance = queries[head].mean(0), torch.cov(queries[head].T, correction=0)
        drawn = torch.distributions.MultivariateNormal(mean, covariance + 1e-6 * torch.eye(8)).sample((200_000,))
        turned = drawn * cosines[0, 0] + torch.cat([-drawn[:, 4:], drawn[:, :4]], dim=1) * sines[0, 0]
        weight = (turned @ keys[0, head // 2].T / math.sqrt(8)).exp().mean(0)
        weights.append(weight / weight.sum() * values[0, head // 2].norm(dim=1))
    expected = torch.stack(weights).mean(0)
    torch.testing.assert_close(scores[0, 0], expected, rtol=0.05, atol=1e-3)
    observation.state, observation.counts = None, torch.tensor([3])
    _, elsewhere = ExpectedAttention(horizon=1, eps=0.0).rescore(observation, torch.zeros(1, 1, 9, 0))
    assert float((elsewhere[0, 0] - expected).abs().max()) > 0.02  # negative control: another position


@pytest.mark.parametrize("chunks", [[40], [1] * 40, [20, 1, 19]], ids=["once", "tokens", "chunks"])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", POLICIES)
def test_sequences_of_a_batch_are_independent(name: str, padding: str, chunks: list[int]) -> None:
    model, batch = tiny_decoder("qwen3", "eager"), texts(padding)
    logits, kept = run_cache(model, POLICIES[name](), BUDGET, batch, chunks)
    for row in range(3):
        valid = batch.valid[row]
        ids = batch.input_ids[row, valid].unsqueeze(0)
        parts = [int(valid[start : start + size].sum()) for start, size in spans(chunks)]
        expected, expected_kept = run_cache(
            model, POLICIES[name](), BUDGET, Texts(ids, torch.ones_like(ids)), [part for part in parts if part]
        )
        assert float((logits[row, valid] - expected[0]).abs().max()) < TOLERANCE
        first = int(valid.int().argmax())
        for ours, theirs in zip(kept, expected_kept, strict=True):
            assert (ours[row][ours[row] >= 0] - first).tolist() == theirs[0].tolist()
            assert ours.shape[1] <= BUDGET.size


def spans(chunks: list[int]) -> list[tuple[int, int]]:
    return [(sum(chunks[:index]), size) for index, size in enumerate(chunks)]


@pytest.mark.parametrize("name", POLICIES)
def test_a_large_budget_equals_the_plain_model(name: str) -> None:
    model, batch = tiny_decoder("llama", "eager"), texts("none")
    logits, _ = run_cache(model, POLICIES[name](), CacheBudget(size=40, sinks=2, window=4), batch, [17, 1, 22])
    with torch.no_grad():
        plain = model(batch.input_ids, use_cache=False).logits
    assert largest_difference(logits, plain, batch) < TOLERANCE


@pytest.mark.parametrize("name", POLICIES)
@torch.no_grad()
def test_beams_carry_the_statistics_of_their_tokens(name: str) -> None:
    model, batch = tiny_decoder("llama", "eager"), texts("none")
    rows = torch.tensor([2, 0, 0])

    def continue_after(start: Texts, change: bool) -> tuple[Tensor, list[Tensor]]:
        with retain_cache(model, POLICIES[name](), BUDGET) as cache:
            model(start.input_ids[:, :25], past_key_values=cache)
            if change:
                cache.reorder_cache(rows)
            ids = batch.input_ids[rows]
            parts = [model(ids[:, at : at + 1], past_key_values=cache).logits for at in range(25, 40)]
            return torch.cat(parts, dim=1), cache.kept

    logits, kept = continue_after(batch, True)
    expected, expected_kept = continue_after(Texts(batch.input_ids[rows], batch.attention_mask[rows]), False)
    assert float((logits - expected).abs().max()) < TOLERANCE
    assert all(torch.equal(one, two) for one, two in zip(kept, expected_kept, strict=True))
