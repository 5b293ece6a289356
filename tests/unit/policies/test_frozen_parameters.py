"""Test that thresholds and rank curves do not change during hard pruning, and the check of the budget before it."""

from __future__ import annotations

import copy
import itertools
import logging
from typing import Any

import pytest
import torch

from retention.policies import LTP, PowerBert, ToP, Transkimmer
from retention.policies.bases.lagrangian import LagrangianPolicy

FROZEN = pytest.mark.parametrize("kind", [LTP, PowerBert, ToP])


def train(policy: Any, view: Any, decide: Any, phases: list[str]) -> list[dict[str, torch.Tensor]]:
    """Train as the Lightning module does, with a zero gradient for all parameters; return them after each step."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    history = []
    for phase in phases:
        policy.phase = phase
        decide(policy, view)
        slack = policy.budget_slack().detach()
        optimizer.zero_grad()
        (policy.budget_loss() + 0.0 * sum(each.sum() for each in policy.parameters())).backward()
        optimizer.step()
        policy.step_dual(slack)
        history.append({name: value.detach().clone() for name, value in policy.named_parameters()})
    return history


def changes(history: list[dict[str, torch.Tensor]]) -> list[bool]:
    """Return for each step but the first whether a parameter changed."""
    pairs = itertools.pairwise(history)
    return [any(not torch.equal(before[name], after[name]) for name in before) for before, after in pairs]


@FROZEN
def test_parameters_are_bit_identical_over_hard_steps(
    kind: Any, in_training: Any, make_attention_view: Any, decide: Any
) -> None:
    policy = in_training(kind(rho=0.3), "soft")
    history = train(policy, make_attention_view(), decide, ["soft"] * 8 + ["hard"] * 8)
    assert changes(history) == [True] * 7 + [False] * 8


@FROZEN
def test_momentum_moves_parameters_that_are_not_frozen(
    kind: Any, in_training: Any, make_attention_view: Any, decide: Any
) -> None:
    """Negative control: this is what frozen parameters did in earlier versions."""
    policy = in_training(kind(rho=0.3, frozen=False), "soft")
    assert all(changes(train(policy, make_attention_view(), decide, ["soft"] * 8 + ["hard"] * 8)))


@FROZEN
def test_weights_loaded_between_hard_steps_are_kept(
    kind: Any, in_training: Any, make_attention_view: Any, decide: Any
) -> None:
    policy, view = in_training(kind(rho=0.3), "soft"), make_attention_view()
    train(policy, view, decide, ["soft"] * 4)
    state = copy.deepcopy(policy.state_dict())
    other = in_training(kind(rho=0.3), "hard")
    train(other, view, decide, ["hard"])
    other.load_state_dict(state)
    history = train(other, view, decide, ["hard"] * 2)
    assert all(torch.equal(value, state[name]) for name, value in history[-1].items())


def test_predictors_are_trained_in_the_hard_phase(in_training: Any, make_view: Any, decide: Any) -> None:
    policy = in_training(Transkimmer(rho=0.3), "hard")
    assert not policy.frozen and all(changes(train(policy, make_view(), decide, ["hard"] * 3)))


def stepped(policy: LagrangianPolicy, slacks: list[float]) -> LagrangianPolicy:
    """Take soft steps with these slacks, then two hard steps."""
    for slack in slacks:
        policy.phase = "soft"
        policy.step_dual(torch.tensor([slack]))
    for _ in range(2):
        policy.phase = "hard"
        policy.step_dual(torch.tensor([0.9]))
    return policy


@pytest.mark.parametrize("kind", [LTP, PowerBert, ToP, Transkimmer])
def test_soft_phase_that_ends_above_its_budget_is_warned_of_once(
    kind: Any, in_training: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        policy = stepped(in_training(kind(rho=0.3), "soft"), [0.0] * 50 + [0.3] * 300)
    assert policy.unmet_budget == pytest.approx(0.3, abs=1e-3) == policy.soft_slack
    assert caplog.text.count(f"30 % of the {policy.slack_unit} above its budget") == 1


def test_budget_that_is_met_at_the_end_of_the_soft_phase_is_not_warned_of(
    in_training: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        policy = stepped(in_training(ToP(rho=0.3), "soft"), [0.9] * 50 + [0.05] * 300)
    assert policy.soft_slack == pytest.approx(0.05, abs=1e-3) and policy.unmet_budget is None and not caplog.records


def test_slack_is_averaged_without_bias_from_the_first_step(in_training: Any) -> None:
    policy = in_training(ToP(rho=0.3), "soft")
    assert policy.soft_slack is None and policy.unmet_budget is None
    policy.step_dual(torch.tensor([0.4]))
    assert policy.soft_slack == pytest.approx(0.4) == policy.unmet_budget
