"""Test PoWER-BERT and ToP, which learn rank curves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.core.flops import EncoderShape, encoder_flops
from retention.engine import ForwardReport
from retention.errors import ConfigError
from retention.policies import PowerBert, ToP
from retention.policies.bases.rank_curve import rank_bins

SHAPE = EncoderShape(num_layers=4, hidden_size=16, intermediate_size=32)


def test_bins_are_relative_to_the_real_length(make_view: Any) -> None:
    view = make_view((4, 2))
    scores = torch.tensor([[0.0, 1.0, 3.0, 2.0], [0.0, 9.0, 99.0, 99.0]])
    assert rank_bins(scores, view, 4)[0].tolist() == [0, 3, 1, 2]  # the first token is protected
    assert rank_bins(scores, view, 4)[1, :2].tolist() == [0, 2]


@pytest.mark.parametrize("kind", [PowerBert, ToP])
def test_dual_lowers_the_curves_to_the_budget(kind: Any, build_policy: Any, make_view: Any, decide: Any) -> None:
    torch.manual_seed(0)
    policy = build_policy(kind(rho=0.4, bins=8)).train()
    policy.phase = "soft"
    view = make_view((20, 13), attention_statistics=torch.rand(2, 20))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-2)
    before, slacks = policy.curves().mean().item(), []
    for step in range(200):
        policy.anneal = min(1.0, step / 120)  # annealed as in training, to avoid overshooting
        decide(policy, view)
        slack = policy.budget_slack()
        optimizer.zero_grad()
        policy.budget_loss().backward()
        optimizer.step()
        policy.step_dual(slack.detach())
        slacks.append(slack.item())
    assert abs(sum(slacks[-20:]) / 20) < 0.08
    assert policy.curves().mean() < before and policy.keep_ratios().diff().max() <= 0


def test_penalty_on_rank_weights_grows_with_depth(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(PowerBert(rho=0.4, bins=8)).train()
    policy.phase = "soft"
    decide(policy, make_view((20, 13), attention_statistics=torch.rand(2, 20)))
    policy.budget_loss().backward()
    by_gate = policy.weights.grad.sum(1)
    torch.testing.assert_close(by_gate / by_gate[0], torch.tensor([1.0, 2.0, 3.0]))


def test_learned_curve_determines_the_distribution_over_depth(build_policy: Any) -> None:
    policy = build_policy(PowerBert(rho=0.3, bins=4)).eval()
    with torch.no_grad():
        policy.weights.copy_(torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]]))
    policy.begin(ForwardReport(lengths=torch.tensor([1000])))
    expected = torch.tensor([0.9 * 4 / 6, 0.9 / 6, 0.9 / 6]) * 1000
    assert (policy.counts[:, 0] - expected).abs().max() <= 1


def test_top_costs_as_much_as_the_schedule(build_policy: Any) -> None:
    policy = build_policy(ToP(rho=0.3, bins=4)).eval()
    with torch.no_grad():
        policy.raw_logits.copy_(0.1 * torch.randn(3, 4, generator=torch.Generator().manual_seed(2)))
    lengths = torch.tensor([900, 400, 2000])
    policy.begin(ForwardReport(lengths=lengths))
    target = encoder_flops(SHAPE, lengths, dict(enumerate(policy.budget.targets(lengths))))
    cost = encoder_flops(SHAPE, lengths, dict(enumerate(policy.counts)))
    assert ((cost / target) < 1 + 1e-9).all() and ((cost / target) > 0.99).all()


def pass_ratios(rate: float, in_training: Any, make_attention_view: Any, decide: Any) -> torch.Tensor:
    """Return the mean keep probability of each gate of ToP after 100 soft steps of a task that needs the first gate."""
    torch.manual_seed(0)
    policy, view = in_training(ToP(rho=0.3, bins=8, rate=rate), "soft"), make_attention_view()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    for step in range(100):
        policy.anneal = min(1.0, step / 75)
        decide(policy, view)
        slack = policy.budget_slack()
        task_loss = 3.0 * (1.0 - policy.sampled_curve(0)).mean()
        optimizer.zero_grad()
        (task_loss + policy.budget_loss()).backward()
        optimizer.step()
        policy.step_dual(slack.detach())
    ratios: torch.Tensor = policy.curves().detach().mean(1)
    return ratios


def test_curves_of_top_differ_by_layer_after_a_short_soft_phase(
    in_training: Any, make_attention_view: Any, decide: Any
) -> None:
    ratios = pass_ratios(10.0, in_training, make_attention_view, decide)
    assert ratios[0] - ratios[1:].min() > 0.3
    # negative control: at rate 1 the optimizer's steps are too small for any bin to leave its start
    slow = pass_ratios(1.0, in_training, make_attention_view, decide)
    assert slow.max() - slow.min() < 0.05 and slow.min() > 0.9


def test_checkpoint_without_rate_keeps_the_same_tokens(build_policy: Any) -> None:
    policy, old = build_policy(ToP(rho=0.3, bins=4)), torch.randn(3, 4)
    state = policy.state_dict()
    del state["raw_logits"]
    policy.load_state_dict({**state, "logits": old})
    torch.testing.assert_close(policy.logits, old)


def test_rate_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rate: the learning rate factor must be > 0, got 0\.0"):
        ToP(rho=0.3, rate=0.0)
