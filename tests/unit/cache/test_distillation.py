"""Test the training of scorers through the loss of the decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.cache.decoders import random_scorers, run_cache, texts, tiny_decoder
from tests.unit.cache.test_training import save_decoder

from retention.cache import CacheBudget, LearnedScores, train
from retention.cache.distillation import (
    BankGates,
    DistillationExample,
    DistillationSettings,
    distill_scores,
    divergence,
    gated_attention,
)
from retention.core.hard_concrete import HardConcrete
from retention.core.scorer import ScorerConfig
from retention.errors import CheckpointError, ConfigError, TrainingError

BUDGET = CacheBudget(size=12, sinks=2, window=4)
GATE = HardConcrete()


def gates(hard: bool, budget: CacheBudget = BUDGET) -> BankGates:
    return BankGates(budget, GATE, hard=hard, generator=torch.Generator().manual_seed(0))


def attentive_decoder(attention: str = "sdpa") -> Any:
    """Build a decoder whose output depends strongly on what it attends to."""
    model = tiny_decoder("llama", attention)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data *= 8.0
        layer.self_attn.q_proj.weight.data *= 4.0
    return model


def text_example(length: int = 40, rows: int = 2, seed: int = 0) -> DistillationExample:
    return DistillationExample.of_text(texts("none", lengths=(length,) * rows, seed=seed).input_ids, BUDGET)


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("block", [1, 3])
@torch.no_grad()
def test_hard_gates_equal_the_cache(attention: str, block: int, per_head: bool) -> None:
    model, batch = tiny_decoder("llama", attention), texts("none", lengths=(40, 40))
    policy = random_scorers(model, per_head=per_head)
    budget = CacheBudget(size=12, sinks=2, window=4, block=block, per_head=per_head)
    expected, _ = run_cache(model, policy, budget, batch, [40])
    with gated_attention(model, policy, gates(True, budget)):
        logits = model(batch.input_ids, use_cache=False).logits
    assert float((logits - expected).abs().max()) < 5e-6
    with gated_attention(model, policy, gates(True, CacheBudget(size=13, sinks=2, window=4, block=block))):
        other = model(batch.input_ids, use_cache=False).logits
    assert float((other - expected).abs().max()) > 1e-3  # negative control: one slot more
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_expected_open_gates_equal_the_bank_for_every_query() -> None:
    scores, soft = 3 * torch.randn(2, 40, generator=torch.Generator().manual_seed(0)), gates(False)
    index = torch.arange(40)
    left = (index >= 2) & (index <= index.unsqueeze(1) - 4)
    logits = soft._logits(scores, left[12:].expand(2, -1, -1))
    expected = (GATE.prob_nonzero(logits) * left[12:]).sum(2)
    torch.testing.assert_close(expected, torch.full_like(expected, 6.0), rtol=0, atol=1e-2)
    # negative control: the scores alone do not meet the budget
    alone = (GATE.prob_nonzero(scores).unsqueeze(1) * left[12:]).sum(2)
    assert float((alone - 6.0).abs().max()) > 1.0


def test_sinks_window_and_early_queries_are_open_and_the_future_is_closed() -> None:
    scores = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    for hard in (False, True):
        bias = gates(hard).bias(scores)[0]
        lowest = torch.finfo(bias.dtype).min
        for query in range(40):
            always = {0, 1, *range(max(0, query - 3), query + 1)} & set(range(query + 1))
            seen = set(range(query + 1)) if query < 12 else always
            assert bool((bias[query, sorted(seen)] == 0).all())
            assert bool((bias[query, query + 1 :] == lowest).all())
        assert bool((bias[12:, 2:8] < 0).any())  # some others are closed, at least in part


def test_gates_of_a_token_close_only_with_time() -> None:
    """One number is drawn per token, and the multiplier grows with the number of competitors."""
    bias = gates(False).bias(torch.randn(1, 40, generator=torch.Generator().manual_seed(0)))[0]
    for token in range(2, 30):
        column = bias[max(12, token + 4) :, token]
        assert bool((column[1:] <= column[:-1] + 1e-3).all())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("hard", [False, True])
def test_the_gradient_reaches_every_scorer_and_no_weight_of_the_model(attention: str, hard: bool) -> None:
    model, policy = attentive_decoder(attention), random_scorers(tiny_decoder("llama"))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    divergence(model, policy, text_example(), gates(hard)).backward()
    for scorer in policy.scorers:
        assert float(scorer.state.weight.grad.abs().max()) > 1e-6
    assert all(parameter.grad is None for parameter in model.parameters())


def test_both_attentions_have_the_same_gradient() -> None:
    found = []
    for attention in ("sdpa", "eager"):
        policy = random_scorers(tiny_decoder("llama"))
        divergence(attentive_decoder(attention), policy, text_example(), gates(False)).backward()
        found.append(policy.scorers[1].state.weight.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


def test_without_evictions_there_is_no_loss_and_no_gradient() -> None:
    """Negative control: with a cache that holds the whole text, scores have no effect."""
    model, policy = attentive_decoder(), random_scorers(tiny_decoder("llama"))
    example = DistillationExample(text_example().input_ids, torch.ones(40, dtype=torch.bool))
    loss = divergence(model, policy, example, gates(False, CacheBudget(size=40, sinks=2, window=4)))
    assert abs(float(loss.detach())) < 1e-6
    loss.backward()
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_training_lowers_the_divergence_and_meets_the_budget() -> None:
    model = attentive_decoder()
    torch.manual_seed(0)
    policy = LearnedScores.for_model(model, ScorerConfig(scorer_dim=8, keep_bias=0.0))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    example = text_example(rows=4)
    with torch.no_grad():
        before = float(divergence(model, policy, example, gates(True)))
    settings = DistillationSettings(epochs=40, lr=1e-2, hard_share=0.25)
    steps = distill_scores(model, policy, [example], BUDGET, settings)
    with torch.no_grad():
        after = float(divergence(model, policy, example, gates(True)))
    assert after < 0.8 * before
    assert [step.hard for step in steps] == [False] * 30 + [True] * 10
    assert all(step.bank_tokens == pytest.approx(6.0, abs=0.05) for step in steps)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters()) and not policy.training


def test_faulty_settings_and_texts_are_refused() -> None:
    model = tiny_decoder("llama")
    policy, settings = random_scorers(model), DistillationSettings()
    with pytest.raises(ConfigError, match="at least one text"):
        distill_scores(model, policy, [], BUDGET, settings)
    with pytest.raises(ConfigError, match="more tokens than the cache, 12"):
        distill_scores(model, policy, [text_example(length=12)], BUDGET, settings)
    with pytest.raises(ConfigError, match="nothing to choose"):
        distill_scores(model, policy, [text_example()], CacheBudget(size=6, sinks=2, window=4), settings)
    for values in ({"epochs": 0}, {"lr": 0.0}, {"weight_decay": -1.0}, {"hard_share": 1.5}, {"max_norm": 0.0}):
        with pytest.raises(ConfigError, match=f"{next(iter(values))}: .*must be"):
            DistillationSettings(**values)  # type: ignore[arg-type]
    model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(TrainingError, match="lower lr"):
        distill_scores(model, policy, [text_example()], BUDGET, settings)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    save_decoder(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join("thequickbrownfoxjumpsoverthelazydog" for _ in range(3)))
    inputs = ["--model", str(tmp_path / "model"), "--texts", str(tmp_path / "texts.txt"), "--limit", "2"]
    return [*inputs, "--validation", "1", "--epochs", "2", "--sinks", "2", "--window", "4", "--size", "12"]


def test_the_command_distills_from_ranked_scorers(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranked, distilled = tmp_path / "ranked.safetensors", tmp_path / "distilled.safetensors"
    assert train.main([*command, "--output", str(ranked), "--scorer", "mlp"]) == 0
    assert train.main([*command, "--loss", "distillation", "--init", str(ranked), "--output", str(distilled)]) == 0
    output = capsys.readouterr().out
    assert "step 4/4 (eviction): KL" in output and "6.0 tokens in the bank" in output
    assert "on 1 other texts with eviction, after:" in output
    first, second = LearnedScores.load(ranked), LearnedScores.load(distilled)
    assert second.config == first.config and second.config.scorer_kind == "mlp"
    assert second.origin["loss"] == "distillation" and second.origin["size"] == 12
    assert second.origin["init"]["loss"] == "ranking" and "init" not in first.origin
    weights = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert any(not torch.equal(ours, theirs) for ours, theirs in weights)
    assert not list(tmp_path.glob(".*tmp"))


def test_the_command_trains_adapters(command: list[str], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    scores, folder = tmp_path / "scores.safetensors", tmp_path / "scores_lora"
    options = [*command, "--loss", "distillation", "--lora", "2", "--output", str(scores)]
    assert train.main(options) == 0
    ids = texts("none", lengths=(40,)).input_ids % 26
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()(ids).logits
        adapted = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
    assert float((plain - adapted).abs().max()) > 1e-6
    plain_file = tmp_path / "plain"
    plain_file.touch()
    assert {path.stat().st_mode for path in folder.iterdir()} == {plain_file.stat().st_mode}
    assert train.main(options) == 1  # the folder exists


def test_the_command_reports_wrong_options(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = ["--output", str(tmp_path / "x.safetensors")]
    assert train.main([*command, *output, "--lora", "2"]) == 1
    assert "--lora" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    assert train.main([*command, *output, "--loss", "distillation", "--lora", "2"]) == 1
    assert "pip install peft" in capsys.readouterr().err
    assert train.main([*command, *output, "--init", str(tmp_path / "model" / "model.safetensors")]) == 1
    assert "no scorers of a bounded cache" in capsys.readouterr().err


def test_a_file_that_is_no_scorers_is_not_replaced(tmp_path: Path) -> None:
    policy, path = random_scorers(tiny_decoder("llama")), tmp_path / "scores.safetensors"
    policy.save(path)
    policy.origin = {"not": object()}  # JSON has no such value
    with pytest.raises(TypeError):
        policy.save(path)
    assert LearnedScores.load(path).hidden_size == 32
    with pytest.raises(CheckpointError):
        LearnedScores.load(tmp_path / "missing.safetensors")
