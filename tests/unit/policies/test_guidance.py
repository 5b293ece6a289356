"""A teacher's importance guides the ranking of the scorers while training."""

from __future__ import annotations

from typing import Any

import torch

from retention.core.duals import ExactDual
from retention.policies import Adaptive
from retention.policies.adaptive import ranking_loss


def guided(built: Any, phase: str, schedule: Any = "flat") -> Any:
    """A policy in training with the simplest scorer."""
    policy = built(Adaptive(dual=ExactDual(), rho=0.4, schedule=schedule, scorer_kind="linear")).train()
    policy.phase = phase
    return policy


def test_guidance_ranks_by_importance_and_leaves_out_protected_and_padding(
    built: Any, make_view: Any, ask: Any
) -> None:
    policy, view = guided(built, "soft"), make_view((20, 13))
    importance = torch.rand(2, 20) * view.valid
    ask(policy, view)
    assert policy.saliency_loss() == 0
    policy.set_saliency({0: importance})
    ask(policy, view)
    ranked = view.valid & ~view.protected
    losses = []
    for row in range(2):
        shares = importance[row][ranked[row]] / importance[row][ranked[row]].sum()
        losses.append(-(shares * policy.score(view)[row][ranked[row]].log_softmax(0)).sum())
    ask(policy, view)
    torch.testing.assert_close(policy.saliency_loss(), torch.stack(losses).mean())
    policy.zero_grad()
    policy.saliency_loss().backward()
    assert policy.scorers["0"].out.weight.grad.abs().sum() > 0


def test_guidance_follows_the_tokens_that_are_left(built: Any, make_view: Any, ask: Any) -> None:
    policy = guided(built, "hard", [0.8, 0.5, 0.3])
    importance = torch.rand(2, 20)
    policy.set_saliency({1: importance})
    places = torch.tensor([[0, 4, 7, 19], [0, 2, 3, 11]])
    view = make_view((4, 4), layer_idx=1, lengths=torch.tensor([20, 13]), positions=places)
    ask(policy, view)
    found = policy.saliency_loss()
    whole = make_view((4, 4), layer_idx=1)
    policy.set_saliency({1: importance.gather(1, places)})
    ask(policy, whole)
    torch.testing.assert_close(found, policy.saliency_loss())


def test_guidance_of_a_training_batch_does_not_reach_evaluation(built: Any, make_view: Any, ask: Any) -> None:
    policy = guided(built, "hard")
    policy.set_saliency({0: torch.rand(2, 20)})
    policy.eval()
    assert ask(policy, make_view((30, 7, 5))).keep_mask.shape == (3, 30)
    assert policy.saliency_loss() == 0


def test_ranking_loss_is_least_at_the_importance_itself() -> None:
    importance = torch.tensor([[0.2, 1.0, 3.0, 9.0]])
    candidates = torch.tensor([[True, True, True, False]])
    best = ranking_loss(importance.log(), importance, candidates)
    for other in (torch.zeros(1, 4), importance, -importance):
        assert ranking_loss(other, importance, candidates) > best
    # scale of the importance and values outside the candidates do not matter
    other = torch.tensor([[0.2, 1.0, 3.0, 0.0]])
    torch.testing.assert_close(ranking_loss(other.log().clamp_min(-9), 7 * other, candidates), best)


def test_ranking_loss_without_candidates_is_zero_and_finite() -> None:
    scores = torch.zeros(1, 3, requires_grad=True)
    loss = ranking_loss(scores, torch.ones(1, 3), torch.zeros(1, 3).bool())
    loss.backward()
    assert loss == 0 and scores.grad is not None and torch.isfinite(scores.grad).all()
