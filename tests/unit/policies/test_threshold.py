"""Test threshold pruning."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.core.duals import AscentDual
from retention.core.scorer import ScorerConfig
from retention.errors import ConfigError
from retention.policies import Threshold


def threshold_policy(build_policy: Any, threshold: float, **settings: Any) -> Any:
    return build_policy(Threshold(**{"rho": 0.5, "schedule": "flat", "threshold": threshold, **settings})).eval()


def test_counts_depend_on_the_sample(build_policy: Any, make_view: Any, decide: Any) -> None:
    view = make_view((30, 30, 30, 30))
    policy = threshold_policy(build_policy, 0.5)
    kept = decide(policy, view).keep_mask.sum(1)
    assert len(set(kept.tolist())) > 1
    low, high = (decide(threshold_policy(build_policy, level), view).keep_mask for level in (0.45, 0.55))
    assert (high <= low).all() and high.sum() < low.sum()


def test_tokens_with_sufficient_probability_are_kept(build_policy: Any, make_view: Any, decide: Any) -> None:
    view = make_view((20, 13))
    policy = threshold_policy(build_policy, 0.5, dual=AscentDual(), scorer=ScorerConfig(keep_bias=0.0))
    keep = decide(policy, view).keep_mask
    expected = (torch.sigmoid(policy.score(view)) >= 0.5) | view.protected
    best = policy.score(view).masked_fill(~view.valid, float("-inf")).argmax(1)
    expected[torch.arange(2), best] = True
    assert torch.equal(keep, expected & view.valid)


def test_best_token_is_kept_if_none_reaches_the_threshold(build_policy: Any, make_view: Any, decide: Any) -> None:
    view = make_view((20, 13), protected=torch.zeros(2, 20, dtype=torch.bool))
    keep = decide(
        threshold_policy(build_policy, 0.99, dual=AscentDual(), scorer=ScorerConfig(keep_bias=-9.0)), view
    ).keep_mask
    assert keep.sum(1).tolist() == [1, 1] and not keep[~view.valid].any()


def test_training_is_that_of_adaptive(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = threshold_policy(build_policy, 0.5).train()
    for phase in ("soft", "hard"):
        policy.phase = phase
        decision = decide(policy, make_view())
        assert (decision.keep_mask is None) == (phase == "soft") and decision.log_gates.requires_grad


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5])
def test_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"threshold: .* \(0, 1\)"):
        Threshold(rho=0.5, threshold=threshold)
