"""Test adaptive scores that start from received attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.policies import Adaptive, AdaptiveAttention

SETTINGS: dict[str, Any] = {"rho": 0.4, "schedule": "flat"}


@pytest.fixture
def view(make_view: Any) -> Any:
    plain = make_view((20, 13))
    received = torch.rand(plain.valid.shape, generator=torch.Generator().manual_seed(5)) * plain.valid
    return make_view((20, 13), attention_statistics=received.requires_grad_())


def test_initial_ranking_is_that_of_received_attention(build_policy: Any, view: Any, decide: Any) -> None:
    policy = build_policy(AdaptiveAttention(**SETTINGS)).eval()
    for scorer in policy.scorers.values():  # the same score for every token
        for parameter in scorer.parameters():
            torch.nn.init.zeros_(parameter)
    keep = decide(policy, view).keep_mask
    received = view.attention_statistics.masked_fill(view.protected, 9.0)
    for row, count in enumerate(keep.sum(1).tolist()):
        assert set(keep[row].nonzero().flatten().tolist()) == set(received[row].topk(count).indices.tolist())


def test_score_adds_the_weighted_log_attention(build_policy: Any, view: Any, decide: Any) -> None:
    policy, plain = build_policy(AdaptiveAttention(**SETTINGS)).eval(), build_policy(Adaptive(**SETTINGS)).eval()
    plain.load_state_dict({k: v for k, v in policy.state_dict().items() if not k.startswith("attention_weights")})
    with torch.no_grad():
        policy.attention_weights["0"].fill_(0.5)
    difference = (policy.score(view) - plain.score(view))[view.valid]
    torch.testing.assert_close(difference, 0.5 * view.attention_statistics[view.valid].clamp_min(1e-4).log())
    with torch.no_grad():
        policy.attention_weights["0"].fill_(0.0)
    assert torch.equal(decide(policy, view).keep_mask, decide(plain, view).keep_mask)


@pytest.mark.parametrize("phase", ["soft", "hard"])
def test_weight_gets_a_gradient_and_the_attention_none(phase: str, build_policy: Any, view: Any, decide: Any) -> None:
    policy = build_policy(AdaptiveAttention(**SETTINGS)).train()
    policy.phase = phase
    gates = decide(policy, view).log_gates
    (gates * torch.randn(gates.shape, generator=torch.Generator().manual_seed(1)))[view.valid].sum().backward()
    assert policy.attention_weights["0"].grad.abs() > 0
    assert view.attention_statistics.grad is None
