"""Test Learned Token Pruning."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.errors import ConfigError
from retention.policies import LTP


def test_soft_gate_is_the_sigmoid_of_the_distance_to_the_threshold(
    in_training: Any, make_attention_view: Any, decide: Any
) -> None:
    policy, view = in_training(LTP(rho=0.4, rate=1.0, schedule="flat"), "soft"), make_attention_view()
    with torch.no_grad():
        policy.raw_thresholds.fill_(0.9)
    decision = decide(policy, view)
    expected = torch.sigmoid((view.attention_statistics - 0.9) / 0.1)
    free = view.valid & ~view.protected
    torch.testing.assert_close(decision.log_gates.exp()[free], expected[free])
    assert (decision.log_gates[~free] == 0).all() and decision.keep_mask is None
    expected_count = torch.where(view.protected, 1.0, expected * view.valid).sum(1)
    torch.testing.assert_close(policy.report.keep_mass[0], expected_count)
    torch.testing.assert_close(policy.budget_slack(), ((expected_count / view.lengths).mean() - 0.4).unsqueeze(0))


def test_tokens_that_reach_the_threshold_are_kept(build_policy: Any, make_attention_view: Any, decide: Any) -> None:
    policy, view = build_policy(LTP(rho=0.4)).eval(), make_attention_view()
    with torch.no_grad():
        policy.raw_thresholds.fill_(0.2)  # at the default rate of 5: the average token
    keep = decide(policy, view).keep_mask
    assert torch.equal(keep, ((view.attention_statistics >= 1.0) | view.protected) & view.valid)
    assert not policy.exact and build_policy(LTP(rho=0.4, exact_topk=True)).exact


def test_thresholds_are_frozen_in_the_hard_phase(in_training: Any, make_attention_view: Any, decide: Any) -> None:
    policy, view = in_training(LTP(rho=0.4, schedule="flat"), "hard"), make_attention_view()
    decision = decide(policy, view)
    assert decision.log_gates is None and not policy.budget_loss().requires_grad
    kept = decision.keep_mask.sum(1) / view.lengths
    torch.testing.assert_close(policy.budget_slack(), (kept.mean() - 0.4).unsqueeze(0))


def test_best_token_is_kept_if_none_reaches_the_threshold(
    build_policy: Any, make_attention_view: Any, decide: Any
) -> None:
    policy = build_policy(LTP(rho=0.4)).eval()
    with torch.no_grad():
        policy.raw_thresholds.fill_(100.0)
    view = make_attention_view(protected=torch.zeros(2, 20, dtype=torch.bool))
    keep = decide(policy, view).keep_mask
    assert keep.sum(1).tolist() == [1, 1]
    assert torch.equal(keep.long().argmax(1), view.attention_statistics.argmax(1))


def test_temperature_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"temperature: the temperature must be > 0, got -1\.0"):
        LTP(rho=0.3, temperature=-1.0)
