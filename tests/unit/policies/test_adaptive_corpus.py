"""Test the budget of the corpus: counts depend on the sequence, their mean is the budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.errors import ConfigError
from retention.policies import Adaptive, AdaptiveCorpus
from retention.policies.adaptive_corpus import relative_importance


def spread_view(make_view: Any, rows: int = 8, width: int = 30) -> Any:
    """Return a view whose sequences differ in how much their scores vary."""
    view = make_view((width,) * rows)
    view.hidden_states.mul_(torch.linspace(0.1, 4.0, rows)[:, None, None])
    return view


class ReadsFirstFeature(AdaptiveCorpus):
    """Policy with the first feature of the states as score, so that the spread of the scores is known."""

    def score(self, view: Any) -> Any:
        return view.hidden_states[..., 0]


def test_batch_in_training_keeps_the_budget_of_all_sequences(build_policy: Any, make_view: Any, decide: Any) -> None:
    view = spread_view(make_view)
    kept = {}
    for kind in (Adaptive, ReadsFirstFeature):
        policy = build_policy(kind(rho=0.4, schedule="flat")).train()
        policy.phase = "hard"
        kept[kind] = decide(policy, view).keep_mask.sum(1)
    assert kept[Adaptive].tolist() == [12] * 8
    assert int(kept[ReadsFirstFeature].sum()) == 8 * 12
    assert kept[ReadsFirstFeature][0] > kept[ReadsFirstFeature][-1] + 3  # important tokens are few where scores vary


def test_calibrated_threshold_meets_the_budget_on_new_batches(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(ReadsFirstFeature(rho=0.4, schedule="flat")).train()
    policy.phase = "hard"
    torch.manual_seed(1)

    def draw() -> Any:
        view = make_view((30,) * 64)
        return make_view((30,) * 64, hidden_states=torch.randn_like(view.hidden_states) * torch.rand(64, 1, 1) * 4)

    for _ in range(60):
        decide(policy, draw())
        policy.step_dual(policy.budget_slack().detach())
    policy.eval()
    keep = torch.cat([decide(policy, draw()).keep_mask for _ in range(10)])
    assert keep.float().mean().item() == pytest.approx(0.4, abs=0.01)
    assert len(keep.sum(1).unique()) > 10
    policy.rho = 0.3
    with pytest.raises(ConfigError, match=r"rho: adaptive_corpus has thresholds for 0\.4, got 0\.3"):
        decide(policy, draw())


def test_each_sequence_keeps_its_budget_before_hard_pruning(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(ReadsFirstFeature(rho=0.4, schedule="flat")).eval()
    assert decide(policy, spread_view(make_view)).keep_mask.sum(1).tolist() == [12] * 8


def test_importance_does_not_depend_on_a_shift_of_the_scores() -> None:
    scores, free = torch.randn(3, 9), torch.ones(3, 9, dtype=torch.bool)
    free[0, 5:] = False
    importance = relative_importance(scores, free)
    shifted = relative_importance(scores + torch.tensor([[5.0], [-2.0], [0.0]]), free)
    torch.testing.assert_close(shifted[free], importance[free])
    assert (importance[0, :5].exp().mean() - 1).abs() < 1e-6  # equal shares would be 1


def test_counts_vary_with_real_removal(make_model: Callable[..., Any], make_batch: Callable[..., Any]) -> None:
    """Training steps with a saliency move the scorers; removal follows the thresholds in both modes."""
    model = make_model(AdaptiveCorpus(rho=0.5, slope=0.5), dropped="forward").train()
    policy, batch = model.policy, make_batch(12, 12, 10, 8)
    policy.phase = "hard"
    importance = torch.rand(4, 12) ** torch.tensor([[0.2], [1.0], [4.0], [8.0]])
    policy.set_saliency(dict.fromkeys(policy.scored, importance))
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    for _ in range(15):
        optimizer.zero_grad()
        model(batch)
        policy.saliency_loss().backward()
        optimizer.step()
        policy.step_dual(policy.budget_slack().detach())
    model(batch)
    lengths = batch["attention_mask"].sum(1)
    assert int(model.last_report.kept[1].sum()) == int((lengths * 0.25).floor().clamp_min(2).sum())
    model.eval()
    with torch.no_grad():
        model(batch)
    shares = model.last_report.kept[0] / lengths
    assert shares.std() > 0.02 and (policy.batches == 15).all()


@pytest.mark.parametrize("rho", [0.1, 0.3, 0.7])
def test_thresholds_stay_valid_in_half_precision(build_policy: Any, rho: float) -> None:
    policy = build_policy(ReadsFirstFeature(rho=rho, schedule="flat"))
    policy.calibrated_rho.fill_(rho)
    assert policy.to(torch.bfloat16)._threshold(0).dtype == torch.bfloat16
    policy.rho = rho + 0.05
    with pytest.raises(ConfigError, match="train it for each budget"):
        policy._threshold(0)
