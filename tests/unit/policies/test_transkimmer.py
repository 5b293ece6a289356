"""Test Transkimmer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.policies import Transkimmer


def test_decisions_are_sampled_in_the_soft_phase_only(in_training: Any, make_view: Any, decide: Any) -> None:
    policy, view = in_training(Transkimmer(rho=0.4, keep_bias=0.0, schedule="flat"), "soft"), make_view((40, 40))
    assert not torch.equal(decide(policy, view).keep_mask, decide(policy, view).keep_mask)
    policy.phase = "hard"
    hard = decide(policy, view)
    assert torch.equal(hard.keep_mask, decide(policy, view).keep_mask)
    assert torch.equal(hard.keep_mask, decide(policy.eval(), view).keep_mask)
    expected = (policy.score(view) >= 0) | view.protected
    assert torch.equal(hard.keep_mask, expected & view.valid)


def test_initial_policy_keeps_everything(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(Transkimmer(rho=0.4)).eval()
    assert torch.equal(decide(policy, make_view()).keep_mask, make_view().valid)


@pytest.mark.parametrize("phase", ["soft", "hard"])
def test_gates_are_open_and_carry_the_gradient_of_the_decision(
    phase: str, in_training: Any, make_view: Any, decide: Any
) -> None:
    policy, view = in_training(Transkimmer(rho=0.4, keep_bias=0.0, schedule="flat"), phase), make_view((20, 13))
    decision = decide(policy, view)
    assert (decision.log_gates == 0).all()
    kept = decision.keep_mask.float().sum(1)
    torch.testing.assert_close(policy.budget_slack()[0], (kept / view.lengths).mean() - 0.4)
    for value in (decision.log_gates.sum(), policy.budget_slack().sum()):
        policy.zero_grad()
        value.backward(retain_graph=True)
        assert policy.predictors["0"].out.bias.grad.item() > 0
