"""Exact parts of the theory lab, against enumeration, closed forms and the classes that training uses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reproduction.theory import descent_ascent
from reproduction.theory.duality import (
    FAMILIES,
    best_feasible_loss,
    corner_minima,
    optimal_multiplier,
    random_problems,
)
from reproduction.theory.estimators import pathwise_gradients, reinforce_gradients
from reproduction.theory.instances import (
    OBJECTIVES,
    all_masks,
    attention_objective,
    exact_gradient,
    expected_loss,
    generator,
    linear_objective,
    mask_probabilities,
    pairwise_objective,
)
from reproduction.theory.lemma1 import relaxed_gradient
from reproduction.theory.lemma3 import analytic_case, failures
from reproduction.theory.proposition1 import slack_bound
from torch import Tensor

from retention.core.duals import AscentDual
from retention.core.hard_concrete import HardConcrete

EPS = 1e-9
SEEDS = st.integers(0, 2**31 - 1)


def probabilities(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_mask_probabilities_are_products_and_sum_to_one(seed: int) -> None:
    probs = probabilities(seed, 3, 5)
    masks = all_masks(5)
    products = torch.where(masks > 0, probs[:, None], 1 - probs[:, None]).prod(-1)
    torch.testing.assert_close(mask_probabilities(probs), products)
    torch.testing.assert_close(products.sum(-1), torch.ones(3).double())


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_expected_loss_of_multilinear_objectives_is_the_loss_of_the_probabilities(seed: int) -> None:
    probs = probabilities(seed, 6)
    for build in (linear_objective, pairwise_objective):
        objective = build(seed)
        torch.testing.assert_close(expected_loss(objective(all_masks(6)), probs), objective(probs))
    attention = attention_objective(seed)
    assert abs(float(expected_loss(attention(all_masks(6)), probs) - attention(probs))) > 1e-6  # is not multilinear


def test_zero_gate_removes_a_token_from_attention() -> None:
    objective = attention_objective(0, tokens=3)
    gates = torch.tensor([1.0, 0.0, 0.5]).double()
    nearly = torch.tensor([1.0, 1e-12, 0.5]).double()
    torch.testing.assert_close(objective(gates), objective(nearly))
    assert not torch.isclose(objective(gates), objective(torch.ones(3).double()))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_exact_gradient_equals_finite_differences(name: str) -> None:
    objective, logits = OBJECTIVES[name](1), torch.linspace(-1, 1, 6).double()
    values, step = objective(all_masks(6)), 1e-6

    def loss(shifted: Tensor) -> Tensor:
        return expected_loss(values, torch.sigmoid(shifted))

    basis = torch.eye(6).double()
    slopes = [(loss(logits + step * row) - loss(logits - step * row)) / (2 * step) for row in basis]
    torch.testing.assert_close(exact_gradient(objective, logits), torch.stack(slopes), atol=1e-8, rtol=1e-6)


def test_reinforce_is_unbiased_and_the_pathwise_gradient_is_not() -> None:
    objective, logits, draws = pairwise_objective(2), torch.linspace(-1, 1, 6).double(), 100_000
    exact, relaxed = exact_gradient(objective, logits), relaxed_gradient(objective, logits, HardConcrete())
    samples = {
        "REINFORCE": (reinforce_gradients(objective, logits, draws, generator(0)), exact),
        "relaxed": (pathwise_gradients(objective, logits, HardConcrete(), draws, generator(0)), relaxed),
    }
    for gradients, target in samples.values():
        error = gradients.std(0) / math.sqrt(draws)
        assert bool(((gradients.mean(0) - target).abs() < 5 * error).all())
    pathwise = samples["relaxed"][0]
    assert bool(((pathwise.mean(0) - exact).abs() > 5 * pathwise.std(0) / math.sqrt(draws)).any())


@given(SEEDS, st.sampled_from(FAMILIES))
@settings(max_examples=10, deadline=None)
def test_proposition1_is_never_violated_at_a_minimizer(seed: int, family: str) -> None:
    problems = random_problems(family, 20, seed)
    rows, feasible = problems.minimizers(), best_feasible_loss(problems)
    assert bool((problems.slack(rows) <= slack_bound(problems, rows, feasible) + EPS).all())
    assert bool(corner_minima(problems).gather(1, rows[:, None]).all())


@given(SEEDS, st.sampled_from(FAMILIES))
@settings(max_examples=10, deadline=None)
def test_minimum_over_masks_is_the_minimum_over_probabilities(seed: int, family: str) -> None:
    problems, probs = random_problems(family, 20, seed), probabilities(seed, 20, 50, 6)
    losses = expected_loss(problems.values[:, None], probs)
    slack = probs.sum(-1) - problems.budgets[:, None]
    lagrangian = losses + problems.multipliers[:, None] * slack
    assert bool((lagrangian >= problems.dual_value()[:, None] - EPS).all())


@given(SEEDS, st.sampled_from(FAMILIES))
@settings(max_examples=10, deadline=None)
def test_search_is_feasible_and_weak_duality_holds(seed: int, family: str) -> None:
    problems = random_problems(family, 20, seed)
    feasible = best_feasible_loss(problems)
    assert bool((feasible <= problems.best_feasible_mask()).all())
    assert bool((feasible >= problems.dual_value() - EPS).all())


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_optimal_multiplier_maximizes_the_dual_function(seed: int) -> None:
    problems = random_problems("independent values", 1, seed)
    losses = [float(problems.values[0, problems.counts == count].min()) for count in range(7)]
    best = optimal_multiplier(losses, float(problems.budgets))
    values = {
        multiplier: float(replace(problems, multipliers=torch.tensor([multiplier], dtype=torch.float64)).dual_value())
        for multiplier in (best, *(0.05 * step for step in range(100)))
    }
    assert values[best] >= max(values.values()) - EPS


@given(st.floats(0.05, 0.95), st.floats(0.01, 1.99))
@settings(max_examples=30, deadline=None)
def test_closed_form_of_lemma3_matches_a_search(limit: float, multiplier: float) -> None:
    slack, gap = analytic_case(limit, multiplier)
    grid = torch.linspace(0, 1, 100_001).double()
    dual = float(((1 - grid) ** 2 + multiplier * (grid - limit)).min())
    assert gap == pytest.approx((1 - limit) ** 2 - dual, abs=1e-8)
    fails = gap < multiplier * slack
    assert fails == (2 / 3 * (1 - limit) < multiplier < 2 * (1 - limit))


def test_tied_tokens_have_the_loss_of_the_closed_form() -> None:
    both_dropped = (1 - all_masks(2)).prod(-1)
    for probability in (0.1, 0.5, 0.9):
        tied = torch.full((2,), probability).double()
        assert float(expected_loss(both_dropped, tied)) == pytest.approx((1 - probability) ** 2)


def test_lemma3_fails_for_the_duality_gap_and_not_for_the_loss() -> None:
    counts = failures(random_problems("pairwise", 200, 1))
    assert counts["gap F* - g(lambda)"] > 0 and counts["gap F* - E[loss]"] == 0


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_regression_loss_and_gradients_are_exact(seed: int) -> None:
    problem = descent_ascent.random_regression(seed)
    weights = torch.randn(4, 5, generator=generator(seed), dtype=torch.float64).requires_grad_()
    probs = probabilities(seed, 4, 5).requires_grad_()
    loss = descent_ascent.enumerated_loss(problem, weights, probs).sum()
    expected = torch.autograd.grad(loss, (weights, probs))
    for made, reference in zip(problem.exact_gradients(weights, probs), expected, strict=True):
        torch.testing.assert_close(made, reference)


def test_gate_slope_equals_autograd() -> None:
    gate, logits = HardConcrete(), torch.linspace(-4, 4, 200).double().requires_grad_()
    gates = gate.sample(logits, probabilities(0, 200))
    (expected,) = torch.autograd.grad(gates.sum(), logits)
    torch.testing.assert_close(descent_ascent.gate_slope(gate, gates.detach()), expected)
    assert bool((expected == 0).any()) and bool((expected > 0).any())


@pytest.mark.parametrize("augmented", [0.0, 1.0])
def test_iteration_takes_the_steps_of_the_ascent_dual(augmented: float) -> None:
    problem = descent_ascent.random_regression()
    exponents = (0.75, 0.65, 0.55)
    states = descent_ascent.iterate(problem, "exact", exponents, augmented, [1, 2], chains=3, seed=0)
    first = next(states)[1]
    weights, logits = first.weights.clone(), first.logits.clone().requires_grad_()
    step_s, step_dual = (scale * 12**-e for scale, e in zip(descent_ascent.SCALES[1:], exponents[1:], strict=True))
    dual = AscentDual(eta=step_dual, augmented=augmented, normalized=False)
    dual.setup(3)
    dual.multipliers = first.multipliers.clone()
    probs = torch.sigmoid(logits)
    slack = probs.sum(-1) - descent_ascent.BUDGET
    loss = descent_ascent.enumerated_loss(problem, weights, probs).sum() + dual.penalty(slack)
    (gradient,) = torch.autograd.grad(loss, logits)
    dual.step(slack.detach())
    second = next(states)[1]
    torch.testing.assert_close(second.logits, (logits - step_s * gradient).detach())
    torch.testing.assert_close(second.multipliers, dual.multipliers)


def test_kkt_residual_is_zero_at_a_solution_only() -> None:
    problem = descent_ascent.Regression(torch.eye(5).double(), torch.tensor([2.0, 1.5, 0.5, 0.0, 0.0]).double(), 9.0)
    weights = torch.tensor([[2.0, 1.5, 0.5, 0.0, 0.0]]).double()
    logits = torch.tensor([[40.0, 40.0, -40.0, -40.0, -40.0]]).double()
    solution = descent_ascent.Iterate(weights, logits, torch.tensor([0.5]).double())  # between 0.5^2 / 2 and 1.5^2 / 2
    assert float(descent_ascent.kkt_residual(problem, solution)) < 1e-6
    cheap = replace(solution, multipliers=torch.tensor([0.1]).double())  # dropping the third feature does not pay
    assert float(descent_ascent.kkt_residual(problem, cheap)) > 0.01
    open_gates = replace(solution, logits=torch.full((1, 5), 40.0).double())
    assert float(descent_ascent.kkt_residual(problem, open_gates)) > 1.0
