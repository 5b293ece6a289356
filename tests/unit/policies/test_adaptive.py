"""Test the adaptive policy: soft gates at the budget, straight-through removal, state of the dual."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from retention.core.duals import AscentDual, ExactDual
from retention.core.hard_concrete import GateConfig
from retention.core.scorer import ScorerConfig
from retention.errors import ConfigError
from retention.policies import Adaptive


def adaptive(build_policy: Any, phase: str, **settings: Any) -> Any:
    """Build a policy in training."""
    policy = build_policy(Adaptive(**{"rho": 0.4, "schedule": "flat", "ranking_noise": 0.0, **settings})).train()
    policy.phase = phase
    return policy


@pytest.mark.parametrize("count", ["sigmoid", "nonzero"])
@pytest.mark.parametrize("anneal", [0.3, 1.0])
def test_exact_soft_gates_meet_the_budget_of_every_sample(
    count: str, anneal: float, build_policy: Any, make_view: Any, decide: Any
) -> None:
    policy = adaptive(build_policy, "soft", dual=ExactDual(count=count))
    policy.anneal = anneal
    decision = decide(policy, make_view((20, 13, 5)))
    ratio = 1 - anneal * 0.6
    torch.testing.assert_close(policy.report.keep_mass[0], ratio * torch.tensor([20.0, 13, 5]), atol=1e-3, rtol=0)
    torch.testing.assert_close(decision.survival.sum(1).detach(), policy.report.keep_mass[0])
    assert policy.budget_slack().abs().max() < 1e-4 and policy.budget_loss() == 0


def test_protected_gates_are_open_and_padding_is_unchanged(build_policy: Any, make_view: Any, decide: Any) -> None:
    decision = decide(adaptive(build_policy, "soft"), make_view((20, 4)))
    assert (decision.log_gates[:, 0] == 0).all() and (decision.survival[:, 0] == 1).all()
    assert (decision.log_gates[1, 4:] == 0).all() and (decision.survival[1, 4:] == 0).all()
    assert (decision.log_gates[0, 1:] < 0).any()


def test_survival_is_the_product_over_gates(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = adaptive(build_policy, "soft", schedule=[0.8, 0.5, 0.3])
    view = make_view((20, 13))
    first = decide(policy, view)
    later = make_view((20, 13), layer_idx=1, survival=first.survival.detach())
    second = policy.decide(later)
    assert (second.survival <= first.survival + 1e-6).all()
    torch.testing.assert_close(second.survival.sum(1).detach(), torch.tensor([10.0, 6.5]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("phase", ["soft", "hard"])
@pytest.mark.parametrize("kind", ["gated", "mlp", "linear"])
def test_scorer_gets_a_gradient_in_both_phases(
    phase: str, kind: str, build_policy: Any, make_view: Any, decide: Any
) -> None:
    policy = adaptive(build_policy, phase, scorer=ScorerConfig(scorer_kind=kind))
    decision = decide(policy, make_view())
    (decision.log_gates * torch.randn(2, 20)).clamp_min(-5).sum().backward()
    weight = policy.scorers["0"].out.weight
    assert weight.grad is not None and weight.grad.abs().sum() > 0 and torch.isfinite(weight.grad).all()


def test_straight_through_gate_has_value_zero_and_the_gradient_of_the_probability(
    build_policy: Any, make_view: Any, decide: Any
) -> None:
    policy = adaptive(build_policy, "hard", dual=AscentDual())
    decision = decide(policy, make_view())
    assert (decision.log_gates == 0).all() and decision.keep_mask.sum(1).tolist() == [8, 5]
    policy.zero_grad()
    decision.log_gates[0, 3].backward(retain_graph=True)
    gradient = policy.scorers["0"].out.bias.grad.item()
    score = policy.score(make_view())[0, 3]
    assert gradient == pytest.approx((torch.sigmoid(score) * torch.sigmoid(-score)).item(), rel=1e-5)


def test_hard_pruning_keeps_the_tokens_of_highest_score(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy, view = adaptive(build_policy, "hard"), make_view((20, 13))
    for mode in (policy.train(), policy.eval()):
        keep = decide(mode, view).keep_mask
        scores = policy.score(view).masked_fill(view.protected, math.inf).masked_fill(~view.valid, -math.inf)
        for row, count in enumerate((8, 5)):
            best = scores[row].argsort(descending=True)[:count]
            assert set(keep[row].nonzero().flatten().tolist()) == set(best.tolist())


@pytest.mark.parametrize("phase", ["soft", "hard"])
@pytest.mark.parametrize("normalized", [True, False])
def test_slack_is_expected_minus_budget_averaged_over_samples(
    phase: str, normalized: bool, build_policy: Any, make_view: Any, decide: Any
) -> None:
    policy = adaptive(build_policy, phase, dual=AscentDual(normalized=normalized), scorer=ScorerConfig(keep_bias=1.0))
    view = make_view((20, 13))
    decide(policy, view)
    probs = torch.sigmoid(policy.score(view)).masked_fill(view.protected, 1.0) * view.valid
    slack = probs.sum(1) - torch.tensor([8.0, 5.2])
    expected = (slack / torch.tensor([20.0, 13.0]) if normalized else slack).mean()
    torch.testing.assert_close(policy.budget_slack(), torch.stack([expected, *torch.zeros(2)]))  # two inactive gates
    policy.dual.multipliers.fill_(2.0)
    loss = policy.budget_loss()
    torch.testing.assert_close(loss, 2 * expected + 5 * expected**2)
    loss.backward()
    assert policy.scorers["0"].out.bias.grad > 0  # too many are kept: gradient descent lowers the scores


def test_budget_loss_is_zero_without_active_gates(build_policy: Any, make_view: Any, decide: Any) -> None:
    kept = adaptive(build_policy, "warmup", dual=AscentDual(), schedule=[0.6, 0.5, 0.4])
    decide(kept, make_view())
    assert kept.budget_slack().tolist() == [0, 0, 0] and kept.budget_loss() == 0
    keep_all = adaptive(build_policy, "soft", dual=AscentDual(), rho=1.0)
    decide(keep_all, make_view())
    assert keep_all.scored == () and keep_all.budget_slack().tolist() == [0, 0, 0] and keep_all.budget_loss() == 0


def test_only_active_gates_have_scorers_and_multipliers(build_policy: Any) -> None:
    policy = build_policy(
        Adaptive(
            dual=AscentDual(), rho=0.5, schedule=[1.0, 0.6, 0.6], layers=[0, 1, 3], scorer=ScorerConfig(scorer_dim=4)
        )
    )
    assert policy.scored == (1,) and list(policy.scorers) == ["1"]
    assert policy.multipliers_by_layer() == {1: 0.0} and policy.scorer_macs() == {1: 2 * 16 * 4 + 4}


def test_penalty_moves_a_learned_budget(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = adaptive(build_policy, "soft", dual=AscentDual(), schedule="learned")
    policy.dual.multipliers.copy_(torch.tensor([3.0, 0.0, 0.0]))
    view = make_view()
    decide(policy, view)
    for layer_idx in (1, 2):
        policy.decide(make_view(layer_idx=layer_idx))
    policy.dual.augmented = 0.0
    policy.budget_loss().backward()
    gradient = policy.budget.allocation.grad
    assert (
        gradient[0] < 0 and (gradient[1:] > 0).all()
    )  # descent gives a larger budget to the gate with the larger multiplier


def test_ranking_noise_acts_in_training_only(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy, view = adaptive(build_policy, "hard", ranking_noise=2.0), make_view()
    torch.manual_seed(0)
    drawn = [decide(policy, view).keep_mask for _ in range(2)]
    assert not torch.equal(*drawn) and all(keep.sum(1).tolist() == [8, 5] for keep in drawn)
    policy.eval()
    assert torch.equal(decide(policy, view).keep_mask, decide(policy, view).keep_mask)


def test_gates_are_sampled_in_every_pass_and_follow_the_seed(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy, view = adaptive(build_policy, "soft"), make_view()
    torch.manual_seed(0)
    first, second = decide(policy, view).log_gates, decide(policy, view).log_gates
    torch.manual_seed(0)
    assert not torch.equal(first, second) and torch.equal(decide(policy, view).log_gates, first)


def test_state_dict_restores_policy_and_dual(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = adaptive(build_policy, "soft", dual=AscentDual(warmup_steps=1), schedule="learned")
    for _ in range(3):
        policy.dual.step(torch.tensor([0.4, 0.1, -0.2]))
    with torch.no_grad():
        policy.budget.allocation.add_(torch.tensor([0.3, 0.0, -0.1]))
        for parameter in policy.scorers.parameters():
            parameter.mul_(1.5)
    other = adaptive(build_policy, "soft", dual=AscentDual(warmup_steps=1), schedule="learned")
    assert "dual.multipliers" in policy.state_dict() and "dual.steps" in policy.state_dict()
    other.load_state_dict(policy.state_dict())
    assert other.multipliers_by_layer() == policy.multipliers_by_layer() != {0: 0.0, 1: 0.0, 2: 0.0}
    view = make_view()
    assert torch.equal(decide(policy.eval(), view).keep_mask, decide(other.eval(), view).keep_mask)
    assert torch.equal(policy.budget.keep_ratios(), other.budget.keep_ratios())


def test_temperature_is_annealed_with_the_budget(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = adaptive(build_policy, "soft", gate=GateConfig(beta=0.8, beta_end=0.2))
    policy.anneal = 0.5
    assert policy.gate.beta == pytest.approx(0.4)
    warm = decisiveness(policy, make_view(), decide)
    policy.anneal = 1.0
    assert policy.gate.beta == pytest.approx(0.2) and decisiveness(policy, make_view(), decide) > warm
    assert policy.eval().gate.beta == pytest.approx(0.2)
    assert adaptive(build_policy, "soft", gate=GateConfig(beta=0.8)).gate.beta == pytest.approx(0.8)


def decisiveness(policy: Any, view: Any, decide: Any) -> float:
    """Return the fraction of free gates closer to 0 or 1 than to 0.5, with fixed noise."""
    torch.manual_seed(0)
    gates = decide(policy, view).log_gates.exp()[view.valid & ~view.protected]
    return ((gates - 0.5).abs() > 0.25).float().mean().item()


def test_gates_on_states_multiply_them_and_do_not_change_attention(
    build_policy: Any, make_view: Any, decide: Any
) -> None:
    view = make_view((20, 13))
    drawn = []
    for gate_target in ("attention", "states"):
        torch.manual_seed(0)
        drawn.append(decide(adaptive(build_policy, "soft", gate=GateConfig(gate_target=gate_target)), view))
    weights = drawn[0].log_gates.exp().unsqueeze(-1)
    assert drawn[1].log_gates is None
    torch.testing.assert_close(drawn[1].hidden_states, view.hidden_states * weights)
    torch.testing.assert_close(drawn[1].survival, drawn[0].survival)
    policy = adaptive(build_policy, "hard", gate=GateConfig(gate_target="states"))
    removed = decide(policy, view)
    assert torch.equal(removed.hidden_states, view.hidden_states) and removed.log_gates is None
    removed.hidden_states.sum().backward()
    assert policy.scorers["0"].out.weight.grad.abs().sum() > 0


def test_dropped_tokens_return_without_the_gradient_of_their_gate(
    build_policy: Any, make_view: Any, decide: Any
) -> None:
    policy = adaptive(build_policy, "hard", gate=GateConfig(gate_target="states"))
    removed = decide(policy, make_view((20, 13)))
    weight = policy.scorers["0"].out.weight
    kept, dropped = (
        torch.autograd.grad(removed.hidden_states[mask].square().sum(), weight, retain_graph=True)[0].abs().sum()
        for mask in (removed.keep_mask, ~removed.keep_mask)
    )
    assert kept > 0 and dropped == 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dual", "exact", "must be a Dual, got 'exact'"),
        ("dual", ExactDual, "must be a Dual, got the class ExactDual"),
        ("gate", 0.5, "must be a GateConfig, got 0.5"),
        ("scorer", "mlp", "must be a ScorerConfig, got 'mlp'"),
    ],
)
def test_names_in_place_of_objects_are_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: {message}; pass an object such as"):
        Adaptive(rho=0.3, **{key: value})
