"""PoWER-BERT and ToP, which learn rank curves, and token merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from retention.core.flops import EncoderShape, encoder_flops
from retention.engine import ForwardReport, Retainer
from retention.policies.bases.rank_curve import rank_bins
from retention.policies.power_bert import PowerBert
from retention.policies.tome import ToMe
from retention.policies.top import ToP

SHAPE = EncoderShape(num_layers=4, hidden_size=16, intermediate_size=32)


def test_ranks_fall_into_bins_of_the_text_itself(make_view: Any) -> None:
    view = make_view((4, 2))
    scores = torch.tensor([[0.0, 1.0, 3.0, 2.0], [0.0, 9.0, 99.0, 99.0]])
    assert rank_bins(scores, view, 4)[0].tolist() == [0, 3, 1, 2]  # the first token is protected
    assert rank_bins(scores, view, 4)[1, :2].tolist() == [0, 2]


@pytest.mark.parametrize("kind", [PowerBert, ToP])
def test_curves_bend_under_pressure_and_shares_follow(kind: Any, built: Any, make_view: Any, ask: Any) -> None:
    torch.manual_seed(0)
    policy = built(kind(rho=0.4, bins=8)).train()
    policy.phase = "soft"
    view = make_view((20, 13), received_attention=torch.rand(2, 20))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-2)
    before, slacks = policy.curves().mean().item(), []
    for step in range(200):
        policy.anneal = min(1.0, step / 120)  # as in a training: a target far below at once would overshoot
        ask(policy, view)
        slack = policy.budget_slack()
        optimizer.zero_grad()
        policy.budget_loss().backward()
        optimizer.step()
        policy.step_dual(slack.detach())
        slacks.append(slack.item())
    assert abs(sum(slacks[-20:]) / 20) < 0.08
    assert policy.curves().mean() < before and policy.shares().diff().max() <= 0


def test_pressure_on_rank_weights_grows_with_depth(built: Any, make_view: Any, ask: Any) -> None:
    policy = built(PowerBert(rho=0.4, bins=8)).train()
    policy.phase = "soft"
    ask(policy, make_view((20, 13), received_attention=torch.rand(2, 20)))
    policy.budget_loss().backward()
    by_gate = policy.weights.grad.sum(1)
    torch.testing.assert_close(by_gate / by_gate[0], torch.tensor([1.0, 2.0, 3.0]))


def test_a_learned_curve_decides_how_the_share_is_spread(built: Any) -> None:
    policy = built(PowerBert(rho=0.3, bins=4)).eval()
    with torch.no_grad():
        policy.weights.copy_(torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]]))
    policy.begin(ForwardReport(lengths=torch.tensor([1000])))
    expected = torch.tensor([0.9 * 4 / 6, 0.9 / 6, 0.9 / 6]) * 1000
    assert (policy.counts[:, 0] - expected).abs().max() <= 1


def test_top_costs_what_the_schedule_would_cost(built: Any) -> None:
    policy = built(ToP(rho=0.3, bins=4)).eval()
    with torch.no_grad():
        policy.logits.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(2)))
    lengths = torch.tensor([900, 400, 2000])
    policy.begin(ForwardReport(lengths=lengths))
    asked = encoder_flops(SHAPE, lengths, dict(enumerate(policy.budget.targets(lengths))))
    cost = encoder_flops(SHAPE, lengths, dict(enumerate(policy.counts)))
    assert ((cost / asked) < 1 + 1e-9).all() and ((cost / asked) > 0.99).all()


def test_merging_conserves_tokens_and_their_sum(built: Any, make_view: Any, ask: Any) -> None:
    policy, view = built(ToMe(rho=0.2, schedule="flat")).eval(), make_view((20, 13))
    decision = ask(policy, view)
    keep, sizes = decision.keep_mask, decision.log_gates.exp()
    assert keep.sum(1).tolist() == [4, 2]
    torch.testing.assert_close((sizes * keep).sum(1), torch.tensor([20.0, 13.0]))
    weighted = (decision.hidden_states * (sizes * keep).unsqueeze(-1)).sum(1)
    torch.testing.assert_close(weighted, (view.hidden_states * view.valid.unsqueeze(-1)).sum(1), atol=1e-4, rtol=1e-4)
    assert torch.equal(decision.hidden_states[:, 0], view.hidden_states[:, 0]) and (sizes[:, 0] == 1).all()


def test_the_most_similar_tokens_merge(built: Any, make_view: Any, ask: Any) -> None:
    states = torch.eye(6, 16).unsqueeze(0)
    states[0, 4] = 2 * states[0, 1]
    view = make_view((6,), hidden_states=states)
    decision = ask(built(ToMe(rho=5 / 6, schedule="flat")).eval(), view)
    assert decision.keep_mask[0].sum() == 5 and not decision.keep_mask[0, [1, 4]].all()
    survivor = 1 if decision.keep_mask[0, 1] else 4
    torch.testing.assert_close(decision.hidden_states[0, survivor], 1.5 * states[0, 1])


def test_where_only_protected_tokens_fit_nothing_else_stays(built: Any, make_view: Any, ask: Any) -> None:
    keep = ask(built(ToMe(rho=0.05, schedule="flat")).eval(), make_view((20, 13))).keep_mask
    assert keep.sum(1).tolist() == [1, 1] and keep[:, 0].all()


@torch.no_grad()
def test_merging_equal_tokens_changes_nothing() -> None:
    """Proportional attention: one token of size two acts on the others exactly like the two it stands for."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64)
    encoder = BertModel(config, add_pooling_layer=False).eval()
    encoder.embeddings.position_embeddings.weight.zero_()  # equal words are equal tokens in every layer
    ids = torch.tensor([[1, 7, 7, 8, 8, 9, 9]])
    policy = ToMe(rho=4 / 7, schedule="flat")
    policy.build(EncoderShape(num_layers=4, hidden_size=32, intermediate_size=64))
    dense = encoder(input_ids=ids).last_hidden_state
    with Retainer(encoder, policy.eval(), layers=policy.layers, dropped="cut", protected_ids=[1]) as retainer:
        merged = encoder(input_ids=ids).last_hidden_state
    places = retainer.state.positions
    assert places.shape == (1, 4)
    assert (merged - dense.gather(1, places.unsqueeze(-1).expand_as(merged))).abs().max() < 5e-6
