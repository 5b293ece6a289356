"""The kept token that stands for those that leave."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.core.duals import ExactDual
from retention.engine import Decision
from retention.engine.token_fusion import fuse_dropped
from retention.policies import Adaptive


def kept(view: Any, *places: tuple[int, ...]) -> Decision:
    mask = torch.zeros_like(view.valid)
    for row, chosen in enumerate(places):
        mask[row, list(chosen)] = True
    return Decision(keep_mask=mask)


def test_the_lowest_kept_token_becomes_the_weighted_mean(make_view: Any) -> None:
    view = make_view((4, 3))
    scores = torch.tensor([[9.0, 2.0, 1.0, 0.5], [9.0, 3.0, 0.0, 0.0]])
    decision = fuse_dropped(kept(view, (0, 1, 2), (0, 1)), scores, view)
    assert decision.hidden_states is not None and decision.log_gates is not None
    states, weights = view.hidden_states, scores.exp()
    first = (weights[0, 2] * states[0, 2] + weights[0, 3] * states[0, 3]) / (weights[0, 2] + weights[0, 3])
    second = (weights[1, 1] * states[1, 1] + weights[1, 2] * states[1, 2]) / (weights[1, 1] + weights[1, 2])
    torch.testing.assert_close(decision.hidden_states[0, 2], first)
    torch.testing.assert_close(decision.hidden_states[1, 1], second)
    assert torch.equal(decision.hidden_states[0, :2], states[0, :2])  # nobody else changes
    torch.testing.assert_close(decision.log_gates.exp(), torch.tensor([[1.0, 1, 2, 1], [1, 2, 1, 1]]))


def test_what_a_token_stands_for_already_counts(make_view: Any) -> None:
    view = make_view((4,), weights=torch.tensor([[1.0, 3.0, 1.0, 2.0]]))
    decision = fuse_dropped(kept(view, (0, 1)), torch.zeros(1, 4), view)
    assert decision.hidden_states is not None and decision.log_gates is not None
    expected = (view.hidden_states[0, 1:] * torch.tensor([3.0, 1, 2]).unsqueeze(1)).sum(0) / 6
    torch.testing.assert_close(decision.hidden_states[0, 1], expected)
    assert decision.log_gates[0, 1].exp().item() == pytest.approx(6 / 3)  # 3 tokens became 6


def test_texts_that_lose_nothing_or_keep_protected_tokens_alone_are_left_alone(make_view: Any) -> None:
    view = make_view((3, 4))
    decision = fuse_dropped(kept(view, (0, 1, 2), (0,)), torch.zeros(2, 4), view)
    assert torch.equal(decision.hidden_states, view.hidden_states) and (decision.log_gates == 0).all()
    soft = Decision(log_gates=torch.zeros(2, 4))
    assert fuse_dropped(soft, torch.zeros(2, 4), view) is soft


def test_the_scores_of_dropped_tokens_get_a_gradient(make_view: Any) -> None:
    view = make_view((5,))
    scores = torch.tensor([[5.0, 2.0, 1.0, 0.5, 0.1]], requires_grad=True)
    decision = fuse_dropped(kept(view, (0, 1)), scores, view)
    assert decision.hidden_states is not None
    decision.hidden_states[0, 1].square().sum().backward()
    assert scores.grad is not None and (scores.grad[0, 2:] != 0).all() and scores.grad[0, 0] == 0


def test_the_policy_carries_in_removal_only_at_the_same_count_and_pays_for_it(
    built: Any, make_view: Any, ask: Any
) -> None:
    settings = {"dual": ExactDual(), "rho": 0.4, "schedule": "flat"}
    plain, carrying = built(Adaptive(**settings)), built(Adaptive(**settings, token_fusion=True))
    view = make_view()
    for policy in (plain, carrying):
        policy.eval()
    with_carrier, without = ask(carrying, view), ask(plain, view)
    assert torch.equal(with_carrier.keep_mask, without.keep_mask)
    assert (with_carrier.hidden_states != view.hidden_states).any(2).sum(1).tolist() == [1, 1]
    torch.testing.assert_close(with_carrier.log_gates.exp().sum(1), torch.tensor([20.0 + 12, 20.0 + 8]))
    assert carrying.scorer_macs()[0] == plain.scorer_macs()[0] + 16
    carrying.train()
    carrying.phase = "soft"
    assert ask(carrying, view).hidden_states is None
