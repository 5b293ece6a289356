"""Test TR-BERT."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.core.flops import EncoderShape
from retention.policies import TRBert


@pytest.mark.parametrize(("depth", "layers"), [(12, (0, 5)), (6, (0, 2)), (4, (0, 1)), (3, (0,)), (2, (0,))])
def test_tokens_are_removed_before_the_second_and_the_middle_layer(depth: int, layers: tuple[int, ...]) -> None:
    policy = TRBert(rho=0.4)
    policy.build(EncoderShape(num_layers=depth, hidden_size=16, intermediate_size=32))
    assert policy.layers == policy.scored == layers
    named = TRBert(rho=0.4, layers=[1])
    named.build(EncoderShape(num_layers=4, hidden_size=16, intermediate_size=32))
    assert named.layers == (1,)


def test_exact_top_k_of_the_policy_network_is_kept(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy, view = build_policy(TRBert(rho=0.4)).eval(), make_view((20, 13))
    decision = decide(policy, view)
    assert decision.keep_mask.sum(1).tolist() == [12, 7] and decision.log_gates is None  # 1.5 rho at the first gate
    second = decide(policy, make_view((20, 13), layer_idx=1))
    assert second.keep_mask.sum(1).tolist() == [4, 2]
    free = view.valid & ~view.protected
    scores = policy.score(view)
    for row in range(2):
        kept, dropped = (scores[row][mask[row] & free[row]] for mask in (decision.keep_mask, ~decision.keep_mask))
        assert kept.min() >= dropped.max()


def test_policy_network_learns_the_ranking_of_a_saliency(in_training: Any, make_view: Any, decide: Any) -> None:
    policy, view = in_training(TRBert(rho=0.4), "hard"), make_view((20, 13))
    saliency = (2.0 * view.hidden_states[:, :, 3]).exp() * view.valid
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)

    def captured() -> float:
        """Return the share of the saliency that the kept tokens have."""
        keep = decide(policy, view).keep_mask & ~view.protected
        free = view.valid & ~view.protected
        return float((saliency * keep).sum() / (saliency * free).sum())

    before = captured()
    policy.set_saliency({0: saliency})
    for _ in range(80):
        decide(policy, view)
        optimizer.zero_grad()
        policy.saliency_loss().backward()
        optimizer.step()
    free = (saliency * (view.valid & ~view.protected)).sort(1, descending=True).values
    best = float((free[0, :11].sum() + free[1, :6].sum()) / free.sum())  # the budget of 12 and 7, without [CLS]
    assert captured() > best - 0.01 and before < best - 0.1


def test_kept_tokens_carry_a_straight_through_gradient(in_training: Any, make_view: Any, decide: Any) -> None:
    policy, view = in_training(TRBert(rho=0.4), "hard"), make_view((20, 13))
    decision = decide(policy, view)
    assert (decision.log_gates == 0).all()
    decision.log_gates[decision.keep_mask].sum().backward()
    assert policy.scorers["0"].out.bias.grad.item() > 0
