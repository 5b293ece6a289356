"""Test policies whose kept count depends on the sample: their dual and the threshold calibration."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.policies import LTP, InforCoef, Transkimmer


@pytest.mark.parametrize("kind", [LTP, Transkimmer, InforCoef])
def test_dual_drives_the_keep_ratio_to_its_target(
    kind: Any, in_training: Any, make_attention_view: Any, decide: Any
) -> None:
    torch.manual_seed(0)
    policy, view = in_training(kind(rho=0.4, schedule="flat"), "soft"), make_attention_view((40, 30))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    first, slacks = None, []
    for _ in range(150):
        decide(policy, view)
        slack = policy.budget_slack()
        optimizer.zero_grad()
        policy.budget_loss().backward()
        optimizer.step()
        policy.step_dual(slack.detach())
        first = slack.item() if first is None else first
        slacks.append(slack.item())
    assert first > 0.25 and abs(sum(slacks[-20:]) / 20) < 0.08
    assert set(policy.multipliers_by_layer()) == {0, 1, 2} and policy.multipliers_by_layer()[0] > 0


@pytest.mark.parametrize("kind", [LTP, Transkimmer, InforCoef])
@pytest.mark.parametrize("start", [-5.0, 5.0])
def test_threshold_calibration_meets_the_target_keep_ratio(
    start: float, kind: Any, in_training: Any, make_attention_view: Any, decide: Any
) -> None:
    policy, view = in_training(kind(rho=0.4, schedule="flat"), "hard"), make_attention_view((40, 30))
    with torch.no_grad():
        if kind is LTP:
            policy.raw_thresholds.fill_(0.2)
        else:  # different scores, as from a trained predictor
            policy.predictors["0"].out.weight.mul_(20.0)
    policy.threshold_offset.fill_(start)  # nearly all or almost no tokens are kept
    for _ in range(200):
        decide(policy, view)
        policy.step_dual(policy.budget_slack().detach())
    assert abs(policy.budget_slack().item()) < 0.05
    assert (decide(policy.eval(), view).keep_mask.sum(1) / view.lengths).mean().item() == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("kind", [LTP, Transkimmer])
def test_threshold_offset_moves_only_with_calibration_in_the_hard_phase(kind: Any, in_training: Any) -> None:
    for policy, phase in (
        (kind(rho=0.4), "soft"),
        (kind(rho=0.4, calibrate_threshold=False), "hard"),
        (kind(rho=0.4, exact_topk=True), "hard"),
    ):
        made = in_training(policy, phase)
        made.step_dual(torch.tensor([0.3]))
        assert made.threshold_offset == 0


def test_threshold_offset_is_saved(build_policy: Any, in_training: Any) -> None:
    policy = in_training(LTP(rho=0.4), "hard")
    policy.step_dual(torch.tensor([0.3]))
    again = build_policy(LTP(rho=0.4))
    again.load_state_dict(policy.state_dict())
    assert again.threshold_offset == policy.threshold_offset > 0


@pytest.mark.parametrize("kind", [LTP, Transkimmer])
def test_exact_topk_keeps_exactly_the_budget(
    kind: Any, build_policy: Any, make_attention_view: Any, decide: Any
) -> None:
    policy = build_policy(kind(rho=0.5, schedule="flat", exact_topk=True)).eval()
    assert decide(policy, make_attention_view()).keep_mask.sum(1).tolist() == [10, 6]


def test_target_counts_protected_tokens_of_short_samples(
    in_training: Any, make_attention_view: Any, decide: Any
) -> None:
    protected = torch.zeros(2, 20, dtype=torch.bool)
    protected[0, :2] = protected[1, :6] = True  # 6 of 13 tokens are protected, but the budget is 4
    view = make_attention_view(protected=protected)
    exact = in_training(LTP(rho=0.3, schedule="flat", exact_topk=True), "hard")
    assert decide(exact, view).keep_mask.sum(1).tolist() == [6, 6]
    assert abs(exact.budget_slack().item()) < 0.01


@pytest.mark.parametrize("kind", [LTP, Transkimmer])
def test_checkpoints_with_earlier_names_are_loaded(kind: Any, build_policy: Any) -> None:
    policy = build_policy(kind(rho=0.4))
    policy.phase = "hard"
    policy.step_dual(torch.tensor([0.3]))
    old = {
        key.replace("dual.", "pressure.").replace("threshold_offset", "level"): v
        for key, v in policy.state_dict().items()
    }
    assert {"pressure.multipliers", "pressure.steps", "level"} <= set(old)
    loaded = torch.nn.ModuleDict({"policy": build_policy(kind(rho=0.4))})
    loaded.load_state_dict({f"policy.{key}": value for key, value in old.items()})
    for key, value in policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[f"policy.{key}"], value), key
