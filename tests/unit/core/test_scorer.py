"""Test scorers: shapes, cost, dependence on context, and errors."""

from __future__ import annotations

import pytest
import torch

from retention.core.flops import EncoderShape, layer_flops
from retention.core.scorer import SCORERS, GatedScorer, Scorer, ScorerConfig, build_scorer
from retention.errors import ConfigError


def scorer_of(kind: str, hidden_size: int, *, scorer_dim: int = 4, keep_bias: float = 0.0) -> Scorer:
    return build_scorer(ScorerConfig(scorer_kind=kind, scorer_dim=scorer_dim, keep_bias=keep_bias), hidden_size)


@pytest.mark.parametrize("kind", SCORERS)
def test_scores_have_one_value_per_token_and_gradients(kind: str) -> None:
    scorer = scorer_of(kind, 16)
    states = torch.randn(3, 7, 16, requires_grad=True)
    scores = scorer(states, torch.ones(3, 7))
    assert scores.shape == (3, 7)
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in scorer.parameters())


@pytest.mark.parametrize("kind", SCORERS)
def test_keep_bias_is_the_initial_score(kind: str) -> None:
    scorer = scorer_of(kind, 16, keep_bias=3.0)
    assert (scorer(torch.randn(2, 5, 16)) - 3.0).abs().max() < 1.0


@pytest.mark.parametrize("kind", SCORERS)
def test_scores_are_invariant_to_the_scale_of_the_states(kind: str) -> None:
    scorer = scorer_of(kind, 16)
    states = torch.randn(2, 5, 16)
    torch.testing.assert_close(scorer(states), scorer(50 * states + 2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "macs"), [("gated", 2 * 48 * 8 + 8), ("mlp", 48 * 24 + 24), ("linear", 48)])
def test_macs_per_token(kind: str, macs: int) -> None:
    assert scorer_of(kind, 48, scorer_dim=8).macs_per_token() == macs


@pytest.mark.parametrize("width", [384, 768])
def test_gated_scorer_costs_under_two_percent_of_a_layer(width: int) -> None:
    shape = EncoderShape(num_layers=1, hidden_size=width, intermediate_size=4 * width)
    layer = layer_flops(shape, 0, torch.tensor([1])).item()  # one token: the lowest cost of a layer per token
    assert 2 * GatedScorer(width, ScorerConfig()).macs_per_token() < 0.02 * layer


def test_gated_score_follows_equation_3() -> None:
    scorer = GatedScorer(8, ScorerConfig(scorer_dim=4, decay=0.75)).double()
    states = torch.randn(1, 6, 8, dtype=torch.float64)
    normed = torch.nn.functional.layer_norm(states, (8,))[0]
    memory = torch.zeros(8, dtype=torch.float64)
    for position in range(6):
        hidden = scorer.state.weight @ normed[position] + scorer.summary.weight @ memory
        expected = scorer.out.weight[0] @ torch.tanh(hidden) + scorer.out.bias[0]
        torch.testing.assert_close(scorer(states)[0, position], expected)
        memory = 0.75 * memory + 0.25 * normed[position]


def test_gated_score_depends_on_previous_tokens_of_positive_weight() -> None:
    torch.manual_seed(0)
    scorer = GatedScorer(8, ScorerConfig(scorer_dim=4, decay=0.5))
    states = torch.randn(1, 6, 8)
    changed = states.clone()
    changed[:, 3] = torch.randn(8)
    before, after = scorer(states), scorer(changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 4:], after[:, 4:])
    weights = torch.ones(1, 6)
    weights[:, 3] = 0
    torch.testing.assert_close(scorer(states, weights)[:, 4:], scorer(changed, weights)[:, 4:])


INVALID = [("scorer_kind", "oracle"), ("scorer_dim", 0), ("decay", 1.5), ("decay", -0.1)]


@pytest.mark.parametrize(("key", "value"), INVALID)
def test_invalid_setting_is_refused(key: str, value: float | str) -> None:
    with pytest.raises(ConfigError) as caught:
        ScorerConfig(**{key: value})
    assert [problem.key for problem in caught.value.problems] == [key] and f"got {value!r}" in str(caught.value)


def test_unknown_kind_error_lists_the_kinds() -> None:
    with pytest.raises(ConfigError, match="gated, mlp, linear"):
        ScorerConfig(scorer_kind="oracle")


def test_bidirectional_scorer_summarizes_following_tokens_as_those_before_in_the_reversed_sequence() -> None:
    torch.manual_seed(0)
    scorer = GatedScorer(8, ScorerConfig(scorer_dim=4, keep_bias=0.0, bidirectional=True))
    states, real = torch.randn(2, 6, 8), torch.tensor([[1.0] * 6, [1.0] * 4 + [0.0] * 2])
    changed = states.clone()
    changed[:, 3] = torch.randn(2, 8)
    moved = (scorer(changed, real) - scorer(states, real)).abs() > 1e-6
    assert moved[:, :4].all()  # tokens before the change depend on it as well
    changed = torch.where(real.bool().unsqueeze(-1), states, -states)
    assert torch.equal(scorer(changed, real)[1, :4], scorer(states, real)[1, :4])  # padding has no effect
    with torch.no_grad():
        scorer.summary.weight.copy_(scorer.ahead.weight)
    torch.testing.assert_close(scorer(states.flip(1)), scorer(states).flip(1))
    assert scorer.macs_per_token() == 3 * 8 * 4 + 4


def test_only_the_gated_scorer_is_bidirectional() -> None:
    with pytest.raises(ConfigError, match="bidirectional"):
        ScorerConfig(scorer_kind="linear", bidirectional=True)
