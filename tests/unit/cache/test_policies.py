"""Test the policies of the bounded cache, one by one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.unit.cache.decoders import random_scorers, run_cache, texts, tiny_decoder
from torch import Tensor

from retention.cache import Arrivals, CacheBudget, KeyNorm, LearnedScores, RandomBank, RetentionCache, StreamingLLM
from retention.core.scorer import GatedScorer, ScorerConfig
from retention.errors import CheckpointError, ConfigError


def arrivals(length: int = 20, rows: int = 2, groups: int = 1, **changes: Tensor) -> Arrivals:
    generator = torch.Generator().manual_seed(0)
    values = {
        "hidden_states": torch.randn(rows, length, 32, generator=generator),
        "keys": torch.randn(rows, 2, length, 8, generator=generator),
        "values": torch.randn(rows, 2, length, 8, generator=generator),
        "valid": torch.ones(rows, length, dtype=torch.bool),
        "ranks": torch.arange(length).expand(rows, -1),
    }
    return Arrivals(layer_idx=1, groups=groups, **{**values, **changes})


def test_streaming_llm_keeps_sinks_and_the_newest_tokens() -> None:
    model, batch = tiny_decoder("llama"), texts("none")
    _, kept = run_cache(model, StreamingLLM(), CacheBudget(size=10, sinks=2, window=3), batch, [5, 30, 5])
    assert all(layer[0].tolist() == [0, 1, *range(32, 40)] for layer in kept)


def test_key_norm_prefers_small_keys() -> None:
    keys = torch.arange(1.0, 5.0)[None, None, :, None].expand(1, 2, 4, 8)
    scores = KeyNorm().score(arrivals(length=4, rows=1, keys=keys))
    assert scores.argsort(descending=True).tolist() == [[[0, 1, 2, 3]]]
    assert scores[0, 0, 1] == pytest.approx(-2 * 8**0.5)


def test_random_bank_depends_on_seed_and_layer_only() -> None:
    first, second = arrivals(length=2000), arrivals(length=2000)
    second.layer_idx = 2
    scores = RandomBank(seed=3).score(first)
    assert torch.equal(scores, RandomBank(seed=3).score(first))
    assert not torch.equal(scores, RandomBank(seed=4).score(first))
    assert not torch.equal(scores, RandomBank(seed=3).score(second))
    assert float(scores.min()) >= 0 and float(scores.max()) < 1
    assert float(scores.mean()) == pytest.approx(0.5, abs=0.03)
    assert abs(float(torch.corrcoef(torch.stack([scores[0, 0], torch.arange(2000.0)]))[0, 1])) < 0.07


def test_gated_scores_equal_the_encoder_scorer_on_the_whole_sequence() -> None:
    policy = random_scorers(tiny_decoder("llama"))
    given = arrivals()
    scorer = policy.scorers[1]
    assert isinstance(scorer, GatedScorer)
    expected = GatedScorer.forward(scorer, given.hidden_states, given.valid.float())
    torch.testing.assert_close(policy.score(given), expected)


def test_gated_scores_continue_the_summary_across_chunks_and_padding() -> None:
    policy = random_scorers(tiny_decoder("llama"))
    valid = torch.rand(2, 20, generator=torch.Generator().manual_seed(1)) < 0.7
    whole = policy.score(arrivals(valid=valid))
    state, parts, given = None, [], arrivals(valid=valid)
    for start in (0, 7, 8, 14):
        end = {0: 7, 7: 8, 8: 14, 14: 20}[start]
        part = arrivals(length=end - start, valid=valid[:, start:end], hidden_states=given.hidden_states[:, start:end])
        part.state = state
        parts.append(policy.score(part))
        state = part.state
    torch.testing.assert_close(torch.cat(parts, dim=1)[valid], whole[valid])


def test_a_forgotten_summary_is_noticed() -> None:
    """Negative control: chunks that start from an empty summary give other scores."""
    policy = random_scorers(tiny_decoder("llama"))
    given = arrivals()
    whole = policy.score(arrivals())
    tail = policy.score(arrivals(length=10, hidden_states=given.hidden_states[:, 10:]))
    assert float((whole[:, 10:] - tail).detach().abs().max()) > 1e-2


@pytest.mark.parametrize("kind", ["gated", "mlp", "linear"])
def test_learned_scores_are_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    policy = random_scorers(tiny_decoder("llama"), kind)
    policy.save(tmp_path / "scores.safetensors")
    loaded = LearnedScores.load(tmp_path / "scores.safetensors")
    assert loaded.config == policy.config and not loaded.training
    assert torch.equal(loaded.score(arrivals()), policy.score(arrivals()))


def test_learned_scores_refuse_other_files_and_code(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    torch.save({"settings": Path("x")}, tmp_path / "code.pt")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:-4])
    for name in ("other.safetensors", "code.pt", "cut.safetensors", "missing.safetensors"):
        with pytest.raises(CheckpointError, match=name):
            LearnedScores.load(tmp_path / name)


def test_learned_scores_refuse_to_look_ahead() -> None:
    with pytest.raises(ConfigError, match="bidirectional"):
        LearnedScores(32, 3, ScorerConfig(bidirectional=True))


def test_learned_scores_of_another_model_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(64, 3\).*\(32, 3\)"):
        RetentionCache(tiny_decoder("gpt2"), LearnedScores(64, 3), CacheBudget())


@pytest.mark.parametrize("kind", ["gated", "mlp", "linear"])
def test_scores_per_head_are_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    policy = random_scorers(tiny_decoder("llama"), kind, per_head=True)
    scores = policy.score(arrivals(groups=2))
    assert policy.heads == 2 and scores.shape == (2, 2, 20) and not torch.equal(scores[:, 0], scores[:, 1])
    policy.save(tmp_path / "scores.safetensors")
    loaded = LearnedScores.load(tmp_path / "scores.safetensors")
    assert loaded.heads == 2 and torch.equal(loaded.score(arrivals(groups=2)), scores)


def test_files_of_earlier_versions_have_scores_that_heads_share(tmp_path: Path) -> None:
    policy = random_scorers(tiny_decoder("llama"))
    settings = {"hidden_size": 32, "num_layers": 3, "scorer": asdict(policy.config)}
    metadata = {"retention_cache": json.dumps({"settings": settings, "origin": {}})}
    save_file(policy.state_dict(), tmp_path / "old.safetensors", metadata)
    loaded = LearnedScores.load(tmp_path / "old.safetensors")
    assert loaded.heads == 1 and torch.equal(loaded.score(arrivals()), policy.score(arrivals()))


def test_scores_for_another_number_of_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 key-value heads, but the model has 2"):
        RetentionCache(tiny_decoder("llama"), LearnedScores(32, 3, heads=3), CacheBudget(per_head=True))
    with pytest.raises(ConfigError, match="heads: must be >= 1"):
        LearnedScores(32, 3, heads=0)


def test_policies_without_training_score_each_head_by_itself() -> None:
    given = arrivals(groups=2)
    norms = KeyNorm().score(given)
    torch.testing.assert_close(norms, -given.keys.norm(dim=-1))
    torch.testing.assert_close(norms.mean(1), KeyNorm().score(arrivals()).squeeze(1))
    draws = RandomBank().score(given)
    assert torch.equal(draws[:, 0], RandomBank().score(arrivals()).squeeze(1))
    assert abs(float(torch.corrcoef(RandomBank().score(arrivals(length=2000, groups=2))[0])[0, 1])) < 0.07
