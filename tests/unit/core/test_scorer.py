"""Scorers: shapes, cost, what they may depend on, and their errors."""

from __future__ import annotations

import pytest
import torch

from retention.core.flops import EncoderShape, layer_flops
from retention.core.scorer import SCORERS, GatedScorer, build_scorer
from retention.errors import ConfigError


@pytest.mark.parametrize("kind", SCORERS)
def test_one_score_per_token_with_gradients(kind: str) -> None:
    scorer = build_scorer(kind, 16, inner=4, decay=0.9, keep_bias=0.0)
    states = torch.randn(3, 7, 16, requires_grad=True)
    scores = scorer(states, torch.ones(3, 7))
    assert scores.shape == (3, 7)
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in scorer.parameters())


@pytest.mark.parametrize("kind", SCORERS)
def test_keep_bias_sets_where_the_scores_start(kind: str) -> None:
    scorer = build_scorer(kind, 16, inner=4, decay=0.9, keep_bias=3.0)
    assert (scorer(torch.randn(2, 5, 16)) - 3.0).abs().max() < 1.0


@pytest.mark.parametrize("kind", SCORERS)
def test_scale_of_the_states_does_not_matter(kind: str) -> None:
    scorer = build_scorer(kind, 16, inner=4, decay=0.9, keep_bias=0.0)
    states = torch.randn(2, 5, 16)
    torch.testing.assert_close(scorer(states), scorer(50 * states + 2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "macs"), [("gated", 2 * 48 * 8 + 8), ("mlp", 48 * 24 + 24), ("linear", 48)])
def test_cost_per_token(kind: str, macs: int) -> None:
    assert build_scorer(kind, 48, inner=8, decay=0.9, keep_bias=0.0).macs_per_token() == macs


@pytest.mark.parametrize("width", [384, 768])
def test_gated_scorer_costs_under_two_percent_of_a_layer(width: int) -> None:
    shape = EncoderShape(num_layers=1, hidden_size=width, intermediate_size=4 * width)
    layer = layer_flops(shape, 0, torch.tensor([1])).item()  # one token: the cheapest a layer can be per token
    assert 2 * GatedScorer(width, inner=32).macs_per_token() < 0.02 * layer


def test_gated_score_follows_the_paper() -> None:
    scorer = GatedScorer(8, inner=4, decay=0.75).double()
    states = torch.randn(1, 6, 8, dtype=torch.float64)
    normed = torch.nn.functional.layer_norm(states, (8,))[0]
    memory = torch.zeros(8, dtype=torch.float64)
    for position in range(6):
        inner = scorer.state.weight @ normed[position] + scorer.summary.weight @ memory
        expected = scorer.out.weight[0] @ torch.tanh(inner) + scorer.out.bias[0]
        torch.testing.assert_close(scorer(states)[0, position], expected)
        memory = 0.75 * memory + 0.25 * normed[position]


def test_gated_score_reads_the_past_and_skips_weight_zero() -> None:
    torch.manual_seed(0)
    scorer = GatedScorer(8, inner=4, decay=0.5)
    states = torch.randn(1, 6, 8)
    changed = states.clone()
    changed[:, 3] = torch.randn(8)
    before, after = scorer(states), scorer(changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 4:], after[:, 4:])
    weights = torch.ones(1, 6)
    weights[:, 3] = 0
    torch.testing.assert_close(scorer(states, weights)[:, 4:], scorer(changed, weights)[:, 4:])


def test_all_errors_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build_scorer("oracle", 16, inner=0, decay=1.5, keep_bias=0.0)
    assert [problem.key for problem in caught.value.problems] == ["scorer_kind", "scorer_dim", "decay"]
    assert "gated, mlp, linear" in str(caught.value)


def test_gated_scorer_checks_itself() -> None:
    with pytest.raises(ConfigError, match="decay"):
        GatedScorer(16, decay=-0.1)


def test_both_ways_reads_what_follows_as_the_past_of_the_reversed_text() -> None:
    torch.manual_seed(0)
    scorer = GatedScorer(8, inner=4, bidirectional=True)
    states, real = torch.randn(2, 6, 8), torch.tensor([[1.0] * 6, [1.0] * 4 + [0.0] * 2])
    changed = states.clone()
    changed[:, 3] = torch.randn(2, 8)
    moved = (scorer(changed, real) - scorer(states, real)).abs() > 1e-6
    assert moved[:, :4].all()  # a token before it has seen the change as well
    changed = torch.where(real.bool().unsqueeze(-1), states, -states)
    assert torch.equal(scorer(changed, real)[1, :4], scorer(states, real)[1, :4])  # padding leaves no trace
    with torch.no_grad():
        scorer.summary.weight.copy_(scorer.ahead.weight)
    torch.testing.assert_close(scorer(states.flip(1)), scorer(states).flip(1))
    assert scorer.macs_per_token() == 3 * 8 * 4 + 4


def test_only_the_gated_scorer_looks_both_ways() -> None:
    with pytest.raises(ConfigError, match="bidirectional"):
        build_scorer("linear", 8, inner=4, decay=0.9, keep_bias=0.0, bidirectional=True)
