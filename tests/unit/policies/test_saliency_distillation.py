"""Test saliency distillation: scorers imitate the token importance of a teacher in training."""

from __future__ import annotations

from typing import Any

import torch

from retention.core.scorer import ScorerConfig
from retention.policies import Adaptive
from retention.policies.bases.saliency_scorers import ranking_loss

LINEAR = ScorerConfig(scorer_kind="linear")


def test_saliency_loss_is_the_ranking_loss_over_free_tokens(in_training: Any, make_view: Any, decide: Any) -> None:
    policy, view = in_training(Adaptive(rho=0.4, schedule="flat", scorer=LINEAR), "soft"), make_view((20, 13))
    importance = torch.rand(2, 20) * view.valid
    decide(policy, view)
    assert policy.saliency_loss() == 0
    policy.set_saliency({0: importance})
    decide(policy, view)
    ranked = view.valid & ~view.protected
    losses = []
    for row in range(2):
        target = importance[row][ranked[row]] / importance[row][ranked[row]].sum()
        losses.append(-(target * policy.score(view)[row][ranked[row]].log_softmax(0)).sum())
    decide(policy, view)
    torch.testing.assert_close(policy.saliency_loss(), torch.stack(losses).mean())
    policy.zero_grad()
    policy.saliency_loss().backward()
    assert policy.scorers["0"].out.weight.grad.abs().sum() > 0


def test_saliency_follows_the_remaining_tokens(in_training: Any, make_view: Any, decide: Any) -> None:
    policy = in_training(Adaptive(rho=0.4, schedule=[0.8, 0.5, 0.3], scorer=LINEAR), "hard")
    importance = torch.rand(2, 20)
    policy.set_saliency({1: importance})
    positions = torch.tensor([[0, 4, 7, 19], [0, 2, 3, 11]])
    view = make_view((4, 4), layer_idx=1, lengths=torch.tensor([20, 13]), positions=positions)
    decide(policy, view)
    loss = policy.saliency_loss()
    shortened = make_view((4, 4), layer_idx=1)
    policy.set_saliency({1: importance.gather(1, positions)})
    decide(policy, shortened)
    torch.testing.assert_close(loss, policy.saliency_loss())


def test_saliency_has_no_effect_in_evaluation(in_training: Any, make_view: Any, decide: Any) -> None:
    policy = in_training(Adaptive(rho=0.4, schedule="flat", scorer=LINEAR), "hard")
    policy.set_saliency({0: torch.rand(2, 20)})
    policy.eval()
    assert decide(policy, make_view((30, 7, 5))).keep_mask.shape == (3, 30)
    assert policy.saliency_loss() == 0


def test_ranking_loss_is_smallest_at_the_importance_itself() -> None:
    importance = torch.tensor([[0.2, 1.0, 3.0, 9.0]])
    candidates = torch.tensor([[True, True, True, False]])
    best = ranking_loss(importance.log(), importance, candidates)
    for other in (torch.zeros(1, 4), importance, -importance):
        assert ranking_loss(other, importance, candidates) > best
    # scale of the importance and values outside the candidates have no effect
    other = torch.tensor([[0.2, 1.0, 3.0, 0.0]])
    torch.testing.assert_close(ranking_loss(other.log().clamp_min(-9), 7 * other, candidates), best)


def test_ranking_loss_without_candidates_is_zero_and_finite() -> None:
    scores = torch.zeros(1, 3, requires_grad=True)
    loss = ranking_loss(scores, torch.ones(1, 3), torch.zeros(1, 3).bool())
    loss.backward()
    assert loss == 0 and scores.grad is not None and torch.isfinite(scores.grad).all()
