"""Test the fusion of dropped tokens into a kept one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.engine import Decision
from retention.engine.token_fusion import fuse_dropped
from retention.policies import Adaptive


def keeping(view: Any, *positions: tuple[int, ...]) -> Decision:
    mask = torch.zeros_like(view.valid)
    for row, kept in enumerate(positions):
        mask[row, list(kept)] = True
    return Decision(keep_mask=mask)


def test_lowest_kept_token_becomes_the_weighted_mean(make_view: Any) -> None:
    view = make_view((4, 3))
    scores = torch.tensor([[9.0, 2.0, 1.0, 0.5], [9.0, 3.0, 0.0, 0.0]])
    decision = fuse_dropped(keeping(view, (0, 1, 2), (0, 1)), scores, view)
    assert decision.hidden_states is not None and decision.log_gates is not None
    states, weights = view.hidden_states, scores.exp()
    first = (weights[0, 2] * states[0, 2] + weights[0, 3] * states[0, 3]) / (weights[0, 2] + weights[0, 3])
    second = (weights[1, 1] * states[1, 1] + weights[1, 2] * states[1, 2]) / (weights[1, 1] + weights[1, 2])
    torch.testing.assert_close(decision.hidden_states[0, 2], first)
    torch.testing.assert_close(decision.hidden_states[1, 1], second)
    assert torch.equal(decision.hidden_states[0, :2], states[0, :2])  # other tokens are unchanged
    torch.testing.assert_close(decision.log_gates.exp(), torch.tensor([[1.0, 1, 2, 1], [1, 2, 1, 1]]))


def test_fused_tokens_count_by_their_size(make_view: Any) -> None:
    view = make_view((4,), weights=torch.tensor([[1.0, 3.0, 1.0, 2.0]]))
    decision = fuse_dropped(keeping(view, (0, 1)), torch.zeros(1, 4), view)
    assert decision.hidden_states is not None and decision.log_gates is not None
    expected = (view.hidden_states[0, 1:] * torch.tensor([3.0, 1, 2]).unsqueeze(1)).sum(0) / 6
    torch.testing.assert_close(decision.hidden_states[0, 1], expected)
    assert decision.log_gates[0, 1].exp().item() == pytest.approx(6 / 3)  # 3 tokens became 6


def test_samples_without_dropped_or_free_kept_tokens_are_unchanged(make_view: Any) -> None:
    view = make_view((3, 4))
    decision = fuse_dropped(keeping(view, (0, 1, 2), (0,)), torch.zeros(2, 4), view)
    assert torch.equal(decision.hidden_states, view.hidden_states) and (decision.log_gates == 0).all()
    soft = Decision(log_gates=torch.zeros(2, 4))
    assert fuse_dropped(soft, torch.zeros(2, 4), view) is soft


def test_scores_of_dropped_tokens_get_a_gradient(make_view: Any) -> None:
    view = make_view((5,))
    scores = torch.tensor([[5.0, 2.0, 1.0, 0.5, 0.1]], requires_grad=True)
    decision = fuse_dropped(keeping(view, (0, 1)), scores, view)
    assert decision.hidden_states is not None
    decision.hidden_states[0, 1].square().sum().backward()
    assert scores.grad is not None and (scores.grad[0, 2:] != 0).all() and scores.grad[0, 0] == 0


def test_policy_fuses_with_hard_pruning_only_at_the_same_count(build_policy: Any, make_view: Any, decide: Any) -> None:
    settings = {"rho": 0.4, "schedule": "flat"}
    plain, fusing = build_policy(Adaptive(**settings)), build_policy(Adaptive(**settings, token_fusion=True))
    view = make_view()
    for policy in (plain, fusing):
        policy.eval()
    fused, unfused = decide(fusing, view), decide(plain, view)
    assert torch.equal(fused.keep_mask, unfused.keep_mask)
    assert (fused.hidden_states != view.hidden_states).any(2).sum(1).tolist() == [1, 1]
    torch.testing.assert_close(fused.log_gates.exp().sum(1), torch.tensor([20.0 + 12, 20.0 + 8]))
    assert fusing.scorer_macs()[0] == plain.scorer_macs()[0] + 16
    fusing.train()
    fusing.phase = "soft"
    assert decide(fusing, view).hidden_states is None
