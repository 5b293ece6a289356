"""Scores that start from received attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.core.duals import ExactDual
from retention.policies.adaptive import Adaptive
from retention.policies.adaptive_attention import AdaptiveAttention


def settings(**changes: Any) -> dict[str, Any]:
    return {"dual": ExactDual(), "rho": 0.4, "schedule": "flat", **changes}


@pytest.fixture
def view(make_view: Any) -> Any:
    plain = make_view((20, 13))
    received = torch.rand(plain.valid.shape, generator=torch.Generator().manual_seed(5)) * plain.valid
    return make_view((20, 13), received_attention=received.requires_grad_())


def test_it_begins_by_the_attention_that_tokens_receive(built: Any, view: Any, ask: Any) -> None:
    policy = built(AdaptiveAttention(**settings())).eval()
    for scorer in policy.scorers.values():  # a scorer that has learned nothing yet: the same score for every token
        for parameter in scorer.parameters():
            torch.nn.init.zeros_(parameter)
    keep = ask(policy, view).keep_mask
    received = view.received_attention.masked_fill(view.protected, 9.0)
    for row, count in enumerate(keep.sum(1).tolist()):
        assert set(keep[row].nonzero().flatten().tolist()) == set(received[row].topk(count).indices.tolist())


def test_the_scorer_corrects_it_by_a_learned_weight(built: Any, view: Any, ask: Any) -> None:
    policy, plain = built(AdaptiveAttention(**settings())).eval(), built(Adaptive(**settings())).eval()
    plain.load_state_dict({k: v for k, v in policy.state_dict().items() if not k.startswith("attention_weights")})
    with torch.no_grad():
        policy.attention_weights["0"].fill_(0.5)
    added = (policy.score(view) - plain.score(view))[view.valid]
    torch.testing.assert_close(added, 0.5 * view.received_attention[view.valid].clamp_min(1e-4).log())
    with torch.no_grad():
        policy.attention_weights["0"].fill_(0.0)
    assert torch.equal(ask(policy, view).keep_mask, ask(plain, view).keep_mask)


@pytest.mark.parametrize("phase", ["soft", "hard"])
def test_the_weight_learns_and_the_attention_does_not(phase: str, built: Any, view: Any, ask: Any) -> None:
    policy = built(AdaptiveAttention(**settings())).train()
    policy.phase = phase
    gates = ask(policy, view).log_gates
    (gates * torch.randn(gates.shape, generator=torch.Generator().manual_seed(1)))[view.valid].sum().backward()
    assert policy.attention_weights["0"].grad.abs() > 0
    assert view.received_attention.grad is None
