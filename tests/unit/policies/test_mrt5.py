"""Test MrT5."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.core.flops import EncoderShape
from retention.errors import ConfigError
from retention.policies import MrT5


@pytest.mark.parametrize(("depth", "layer"), [(12, 2), (6, 1), (4, 0), (2, 0), (1, 0)])
def test_gate_sits_after_a_quarter_of_the_layers(depth: int, layer: int) -> None:
    policy = MrT5(rho=0.4)
    policy.build(EncoderShape(num_layers=depth, hidden_size=16, intermediate_size=32))
    assert policy.layers == policy.scored == (layer,)


def test_soft_gate_is_the_scaled_sigmoid_in_the_attention_logits(in_training: Any, make_view: Any, decide: Any) -> None:
    policy, view = in_training(MrT5(rho=0.4, gate_scale=30.0, keep_bias=0.0), "soft"), make_view((20, 13))
    decision = decide(policy, view)
    free = view.valid & ~view.protected
    expected = -30.0 * torch.sigmoid(-policy.score(view))
    torch.testing.assert_close(decision.log_gates[free], expected[free])
    assert (decision.log_gates[~free] == 0).all() and decision.keep_mask is None
    probs = torch.where(view.protected, 1.0, torch.sigmoid(policy.score(view))) * view.valid
    torch.testing.assert_close(policy.budget_slack()[0], (probs.sum(1) / view.lengths).mean() - 0.4)


def test_initial_gate_is_nearly_open(in_training: Any, make_view: Any, decide: Any) -> None:
    decision = decide(in_training(MrT5(rho=0.4), "soft"), make_view((20, 13)))
    assert decision.log_gates.min() > -0.5


def test_tokens_below_half_the_scale_are_deleted(in_training: Any, make_view: Any, decide: Any) -> None:
    policy, view = in_training(MrT5(rho=0.4, keep_bias=0.0), "soft"), make_view((20, 13))
    with torch.no_grad():
        policy.delete_gates["0"].out.weight.mul_(20.0)
    gates = decide(policy, view).log_gates
    keep = decide(policy.eval(), view).keep_mask
    assert torch.equal(keep, (gates >= -15.0) & view.valid) and 5 < keep.sum() < 28


def test_controller_meets_the_deletion_rate(in_training: Any, make_view: Any, decide: Any) -> None:
    """Soft steps bring the expected ratio to the target, hard steps the achieved one."""
    torch.manual_seed(0)
    policy, view = in_training(MrT5(rho=0.4), "soft"), make_view((40, 30))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    for phase, steps in (("soft", 300), ("hard", 200)):
        policy.phase, slacks = phase, []
        for step in range(steps):
            policy.anneal = 1.0 if phase == "hard" else min(1.0, step / 150)
            decide(policy, view)
            slack = policy.budget_slack()
            optimizer.zero_grad()
            policy.budget_loss().backward()
            optimizer.step()
            policy.step_dual(slack.detach())
            slacks.append(slack.item())
        assert abs(sum(slacks[-20:]) / 20) < 0.06, phase
    assert policy.multipliers_by_layer()[0] > 0
    kept = decide(policy.eval(), view).keep_mask.sum(1) / view.lengths
    assert kept.mean().item() == pytest.approx(0.4, abs=0.1)


def test_hard_gates_carry_a_straight_through_gradient(in_training: Any, make_view: Any, decide: Any) -> None:
    policy, view = in_training(MrT5(rho=0.4, keep_bias=0.0), "hard"), make_view((20, 13))
    decision = decide(policy, view)
    kept = decision.keep_mask.float().sum(1)
    torch.testing.assert_close(policy.budget_slack()[0], (kept / view.lengths).mean() - 0.4)
    for value in (decision.log_gates[decision.keep_mask].sum(), policy.budget_slack().sum()):
        policy.zero_grad()
        value.backward(retain_graph=True)
        assert policy.delete_gates["0"].out.bias.grad.item() > 0
    assert (decision.log_gates == 0).all()


def test_exact_topk_keeps_exactly_the_budget(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(MrT5(rho=0.5, exact_topk=True)).eval()
    assert decide(policy, make_view((20, 13))).keep_mask.sum(1).tolist() == [10, 6]


def test_scale_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gate_scale: the scale of the gates must be > 0, got 0\.0"):
        MrT5(rho=0.3, gate_scale=0.0)
