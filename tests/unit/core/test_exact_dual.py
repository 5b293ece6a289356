"""Test that the exact multiplier meets the budget of every sample and has the right derivative."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retention.core.duals import ExactDual, solve_multiplier
from retention.core.hard_concrete import HardConcrete
from retention.errors import ConfigError

GATE = HardConcrete()


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw scores [B, N], a reachable budget [B], survival [B, N] and protected [B, N]."""
    size, length = draw(st.integers(1, 4)), draw(st.integers(3, 200))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    scale, offset = draw(st.sampled_from([0.0, 0.1, 1.0, 10.0, 50.0])), draw(st.sampled_from([0.0, -20.0, 40.0]))
    scores = scale * torch.randn(size, length, generator=generator) + offset
    real = torch.randint(2, length + 1, (size, 1), generator=generator)
    valid = torch.arange(length).unsqueeze(0) < real
    soft = draw(st.booleans())
    survival = torch.rand(size, length, generator=generator) if soft else torch.ones(size, length)
    protected = (torch.rand(size, length, generator=generator) < 0.1) & valid
    protected[:, 1] = False  # at least one token is free
    survival = torch.where(protected, torch.ones(()), survival) * valid
    lowest, highest = (survival * protected).sum(1), survival.sum(1)
    fraction = 0.02 + 0.96 * torch.rand(size, generator=generator)
    return scores, lowest + fraction * (highest - lowest), survival, protected


@settings(max_examples=120)
@given(problem=problems(), count=st.sampled_from(["sigmoid", "nonzero"]))
def test_expected_count_equals_the_budget_of_every_sample(
    problem: tuple[Tensor, Tensor, Tensor, Tensor], count: str
) -> None:
    scores, budget, survival, protected = problem
    dual = ExactDual(count=count)
    logits = dual.gate_logits(scores, budget, survival, protected, GATE)
    kept = (survival * torch.where(protected, torch.ones(()), dual.keep_probs(logits, GATE))).sum(1)
    real = (survival > 0).sum(1)
    assert ((kept - budget).abs() <= 1e-4 * real).all()


@given(problem=problems())
def test_logits_do_not_depend_on_the_batch(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    scores, budget, survival, protected = problem
    together = ExactDual().gate_logits(scores, budget, survival, protected, GATE)
    real = int((survival[0] > 0).nonzero().max()) + 1
    alone = ExactDual().gate_logits(scores[:1, :real], budget[:1], survival[:1, :real], protected[:1, :real], GATE)
    torch.testing.assert_close(together[:1, :real], alone, atol=1e-4, rtol=1e-4)


def test_logits_are_invariant_to_a_shift_of_all_scores() -> None:
    torch.manual_seed(0)
    scores, ones, nothing = torch.randn(2, 9), torch.ones(2, 9), torch.zeros(2, 9).bool()
    budget = torch.tensor([3.0, 5.5])
    first, second = (ExactDual().gate_logits(s, budget, ones, nothing, GATE) for s in (scores, scores + 7.0))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_derivative_of_the_multiplier_matches_finite_differences(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = (scale * torch.randn(2, 6, generator=generator, dtype=torch.float64)).requires_grad_()
    weights = (0.2 + 0.8 * torch.rand(2, 6, generator=generator, dtype=torch.float64)).requires_grad_()
    budget = torch.tensor([1.5, 2.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(solve_multiplier, (scores, weights, budget), eps=1e-5, atol=1e-6)


def test_expected_count_has_zero_gradient_in_the_scores() -> None:
    scores = torch.randn(1, 8, dtype=torch.float64, requires_grad=True)
    ones, nothing = torch.ones(1, 8, dtype=torch.float64), torch.zeros(1, 8).bool()
    logits = ExactDual().gate_logits(scores, torch.tensor([3.0]).double(), ones, nothing, GATE)
    (gradient,) = torch.autograd.grad(torch.sigmoid(logits).sum(), scores)
    assert gradient.abs().max() < 1e-9


@pytest.mark.parametrize("count", ["sigmoid", "nonzero"])
@pytest.mark.parametrize(("budget", "bound"), [(20.0, 1.0), (9.0, 1.0), (0.0, 0.0), (-4.0, 0.0)])
def test_unreachable_budget_opens_or_closes_every_gate(count: str, budget: float, bound: float) -> None:
    torch.manual_seed(0)
    scores = (5 * torch.randn(2, 9)).requires_grad_()
    dual = ExactDual(count=count)
    target = torch.full((2,), budget)
    logits = dual.gate_logits(scores, target, torch.ones(2, 9), torch.zeros(2, 9).bool(), GATE)
    torch.testing.assert_close(dual.keep_probs(logits, GATE), torch.full((2, 9), bound), atol=1e-6, rtol=0)
    logits.sum().backward()
    assert scores.grad is not None and torch.isfinite(scores.grad).all()


def test_free_gates_close_if_protected_tokens_exceed_the_budget() -> None:
    protected = torch.tensor([[True, True, True, False, False]])
    logits = ExactDual().gate_logits(torch.zeros(1, 5), torch.tensor([2.0]), torch.ones(1, 5), protected, GATE)
    assert torch.sigmoid(logits)[0].tolist() == pytest.approx([1, 1, 1, 0, 0], abs=1e-6)


def test_logits_are_finite_without_free_tokens() -> None:
    protected = torch.tensor([[True, True, False], [False, False, False]])
    survival = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])  # padding only
    logits = ExactDual().gate_logits(torch.zeros(2, 3), torch.tensor([1.0, 1.0]), survival, protected, GATE)
    assert torch.isfinite(logits).all()


def test_multipliers_and_penalty_are_zero() -> None:
    dual = ExactDual()
    dual.setup(3)
    dual.step(torch.ones(3))
    assert dual.multipliers.tolist() == [0, 0, 0]
    assert dual.penalty(torch.ones(3)) == 0 and not dual.uses_raw_slack()


def test_unknown_count_is_refused() -> None:
    with pytest.raises(ConfigError, match="count: must be one of sigmoid, nonzero, got 'all'"):
        ExactDual(count="all")
