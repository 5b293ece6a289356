"""Test dual ascent: the projected step, its warmup, its penalty, and that it does not close every gate."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from retention.core.duals import AscentDual
from retention.core.hard_concrete import HardConcrete
from retention.errors import ConfigError

GATE = HardConcrete()


def with_gates(dual: AscentDual, num_gates: int = 2) -> AscentDual:
    dual.setup(num_gates)
    return dual


def test_step_is_projected_at_zero() -> None:
    dual = with_gates(AscentDual(eta=0.5))
    dual.step(torch.tensor([0.4, -0.4]))
    assert dual.multipliers.tolist() == pytest.approx([0.2, 0.0])
    dual.step(torch.tensor([-1.0, 0.2]))
    assert dual.multipliers.tolist() == pytest.approx([0.0, 0.1])


def test_multipliers_are_constant_during_warmup() -> None:
    dual = with_gates(AscentDual(eta=1.0, warmup_steps=2), 1)
    values = []
    for _ in range(4):
        dual.step(torch.tensor([0.25]))
        values.append(dual.multipliers.item())
    assert values == [0.0, 0.0, 0.25, 0.5]


def test_penalty_is_linear_plus_quadratic() -> None:
    dual = with_gates(AscentDual(augmented=4.0))
    dual.multipliers.copy_(torch.tensor([2.0, 3.0]))
    slack = torch.tensor([0.5, -0.1], requires_grad=True)
    dual.penalty(slack).backward()
    assert dual.penalty(slack).item() == pytest.approx(2 * 0.5 + 3 * -0.1 + 2 * (0.25 + 0.01))
    assert slack.grad is not None and slack.grad.tolist() == pytest.approx([2 + 4 * 0.5, 3 - 4 * 0.1])


def test_penalty_without_the_augmented_term_is_linear() -> None:
    dual = with_gates(AscentDual(augmented=0.0))
    dual.multipliers.copy_(torch.tensor([2.0, 0.0]))
    assert dual.penalty(torch.tensor([-0.5, 0.9])).item() == pytest.approx(-1.0)


def test_slack_is_in_tokens_unless_normalized() -> None:
    assert AscentDual(normalized=False).uses_raw_slack() and not AscentDual().uses_raw_slack()


def test_gate_logits_are_the_scores_except_for_protected_tokens() -> None:
    scores = torch.tensor([[-3.0, 0.5, 2.0]])
    protected = torch.tensor([[True, False, False]])
    logits = AscentDual().gate_logits(scores, torch.tensor([1.0]), torch.ones(1, 3), protected, GATE)
    assert logits[0, 1:].tolist() == [0.5, 2.0] and torch.sigmoid(logits[0, 0]) == 1.0


def test_count_selects_the_keep_probability() -> None:
    logits = torch.tensor([-1.0, 0.0, 1.0])
    assert torch.equal(AscentDual(count="sigmoid").keep_probs(logits, GATE), torch.sigmoid(logits))
    assert torch.equal(AscentDual(count="nonzero").keep_probs(logits, GATE), GATE.prob_nonzero(logits))


def test_state_dict_restores_multipliers_and_steps() -> None:
    dual, other = with_gates(AscentDual(eta=1.0, warmup_steps=1)), with_gates(AscentDual(eta=1.0, warmup_steps=1))
    for _ in range(3):
        dual.step(torch.tensor([0.5, 0.1]))
    other.load_state_dict(dual.state_dict())
    assert torch.equal(other.multipliers, dual.multipliers) and other.steps.item() == 3
    assert not list(dual.parameters())


@pytest.mark.parametrize(("key", "value"), [("eta", 0.0), ("augmented", -1.0), ("warmup_steps", -1), ("count", "all")])
def test_invalid_setting_is_refused(key: str, value: float | str) -> None:
    with pytest.raises(ConfigError) as caught:
        AscentDual(**{key: value})
    assert [problem.key for problem in caught.value.problems] == [key] and f"got {value!r}" in str(caught.value)


@dataclass
class Trace:
    """Keep ratio and multiplier after each step of a toy training."""

    keep_ratio: list[float] = field(default_factory=list)
    multiplier: list[float] = field(default_factory=list)


def train_gates(dual: AscentDual, *, rho: float, steps: int) -> Trace:
    """Train 64 gates without noise on the task loss -mean(p value), which prefers to keep every token."""
    with_gates(dual, 1)
    values: Tensor = torch.linspace(0.05, 0.6, 64)
    scores, trace = torch.full((64,), 3.0, requires_grad=True), Trace()
    for _ in range(steps):
        keep_probs = torch.sigmoid(scores)
        slack = (keep_probs.mean() - rho).reshape(1)
        (gradient,) = torch.autograd.grad(dual.penalty(slack) - (keep_probs * values).mean(), scores)
        with torch.no_grad():
            scores -= 0.2 * len(scores) * gradient
        dual.step(slack.detach())
        trace.keep_ratio.append(keep_probs.mean().item())
        trace.multiplier.append(dual.multipliers.item())
    return trace


@pytest.mark.parametrize("rho", [0.2, 0.3, 0.5])
def test_default_dual_reaches_the_budget_without_closing_every_gate(rho: float) -> None:
    trace = train_gates(AscentDual(), rho=rho, steps=1000)
    assert abs(trace.keep_ratio[-1] - rho) < 0.02
    assert min(trace.keep_ratio) > 0.5 * rho
    assert trace.multiplier[-1] > 0.1  # the budget is active


@pytest.mark.parametrize("rho", [0.2, 0.3, 0.5])
def test_plain_ascent_closes_nearly_every_gate(rho: float) -> None:
    """Without the quadratic term, the form of the paper, on the same toy training."""
    trace = train_gates(AscentDual(augmented=0.0), rho=rho, steps=700)
    assert min(trace.keep_ratio) < 0.2 * rho
    assert max(trace.multiplier) > 2 * 0.6  # twice the value of the most valuable token
