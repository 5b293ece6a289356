"""Run the stochastic primal-dual iteration of Proposition 2 on a regression problem with gated features.

Every chain is one run; all chains of a call advance together, as rows of the same tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reproduction.theory.instances import all_masks, expected_loss, generator
from retention.core.duals import AscentDual
from retention.core.hard_concrete import HardConcrete

FEATURES, BUDGET = 5, 2.0
TARGET_VARIANCE = 9.0
ESTIMATORS = ("exact", "REINFORCE", "Hard-Concrete")
_OFFSET = 10  # steps are c (k + 10)^-e, so that the first ones are moderate
SCALES = (1.0, 10.0, 2.0)  # c of weights, logits and multiplier; logits move slowly where their gates saturate
_BASELINE_RATE = 0.01  # of the running mean of the loss that REINFORCE subtracts


@dataclass(frozen=True)
class Regression:
    """Least squares on gated features: f(w, z) = (w z)' S (w z) / 2 - c' (w z) + v / 2.

    Attributes:
        second_moments: S, [T, T], positive definite with ones on the diagonal.
        correlations: c, mean products of features and target, [T].
        target_variance: v.
    """

    second_moments: Tensor
    correlations: Tensor
    target_variance: float

    def loss(self, weights: Tensor, gates: Tensor) -> Tensor:
        """Compute f(w, z), [...]; weights and gates are [..., T]."""
        gated = weights * gates
        return (
            0.5 * ((gated @ self.second_moments) * gated).sum(-1)
            - gated @ self.correlations
            + 0.5 * self.target_variance
        )

    def residual(self, weights: Tensor, gates: Tensor) -> Tensor:
        """Compute S (w z) - c, the gradient of the loss in w z, [..., T]."""
        return (weights * gates) @ self.second_moments - self.correlations

    def exact_gradients(self, weights: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of E_{z ~ Bernoulli(p)} f(w, z) in w and p in closed form, each [..., T].

        S has ones on its diagonal and z^2 = z, so E f = f(w, p) + sum_t w_t^2 p_t (1 - p_t) / 2.
        """
        residual = self.residual(weights, probs)
        in_weights = probs * residual + weights * probs * (1.0 - probs)
        in_probs = weights * residual + 0.5 * weights.square() * (1.0 - 2.0 * probs)
        return in_weights, in_probs


def random_regression(seed: int = 3) -> Regression:
    """Draw a regression with correlated features and a target that depends on all of them."""
    source = generator(seed)
    mixing = torch.randn(FEATURES, FEATURES, generator=source, dtype=torch.float64) + 2.0 * torch.eye(FEATURES).double()
    moments = mixing @ mixing.T
    scale = moments.diagonal().rsqrt()
    moments = scale[:, None] * moments * scale
    truth = torch.linspace(1.0, 0.4, FEATURES, dtype=torch.float64)
    truth = truth * (TARGET_VARIANCE / (truth @ moments @ truth)).sqrt()
    return Regression(moments, moments @ truth, TARGET_VARIANCE)


@dataclass
class Iterate:
    """State of all chains: weights w and logits s, [chains, T], and multipliers, [chains]."""

    weights: Tensor
    logits: Tensor
    multipliers: Tensor


def kkt_residual(problem: Regression, iterate: Iterate) -> Tensor:
    """Compute the distance from the Karush-Kuhn-Tucker conditions of the exact problem, [chains].

    Norm of: the gradient in w; p - clip(p - dL/dp, 0, 1); the slack above 0; and lambda times the slack. In p and not
    in s, so that a saturated sigmoid does not pass for stationary.
    """
    probs = torch.sigmoid(iterate.logits)
    in_weights, in_probs = problem.exact_gradients(iterate.weights, probs)
    projected = probs - (probs - in_probs - iterate.multipliers[:, None]).clamp(0.0, 1.0)
    slack = probs.sum(-1) - BUDGET
    parts = [in_weights, projected, slack.clamp(min=0.0)[:, None], (iterate.multipliers * slack)[:, None]]
    residual: Tensor = torch.cat(parts, dim=-1).norm(dim=-1)
    return residual


def enumerated_loss(problem: Regression, weights: Tensor, probs: Tensor) -> Tensor:
    """Compute E_{z ~ Bernoulli(p)} f(w, z) by enumeration of all masks, [chains]."""
    return expected_loss(problem.loss(weights[:, None], all_masks(FEATURES)), probs)


def iterate(
    problem: Regression,
    estimator: str,
    exponents: tuple[float, float, float],
    augmented: float,
    checkpoints: Sequence[int],
    *,
    chains: int,
    seed: int,
) -> Iterator[tuple[int, Iterate]]:
    """Run gradient descent on w and s and dual ascent on lambda; yield the state at the checkpoints.

    Args:
        problem: the regression.
        estimator: one of ``ESTIMATORS``: gradients in w and s without noise, with Bernoulli gates, or with gates of
            the project's ``HardConcrete``.
        exponents: e of the step sizes c (k + 10)^-e of w, s and lambda, with c of ``SCALES``.
        augmented: weight of the quadratic term of ``AscentDual``, >= 0; 0 = the paper's Lagrangian.
        checkpoints: increasing step numbers.
        chains: number of runs.
        seed: of starts and gates.
    """
    source, dual = generator(seed), AscentDual(augmented=augmented, normalized=False)
    dual.setup(chains)
    dual.multipliers = dual.multipliers.double()
    state = Iterate(_normal(chains, source), _normal(chains, source), dual.multipliers)
    gradients = _Gradients(problem, estimator, chains, source)
    for step in range(1, checkpoints[-1] + 1):
        step_w, step_s, dual.eta = (
            scale * float((step + _OFFSET) ** -exponent) for scale, exponent in zip(SCALES, exponents, strict=True)
        )
        probs = torch.sigmoid(state.logits)
        in_weights, in_logits = gradients(state.weights, state.logits, probs)
        slack = probs.sum(-1) - BUDGET
        price = dual.multipliers + augmented * slack  # gradient of dual.penalty in the slack
        state.weights = state.weights - step_w * in_weights
        state.logits = state.logits - step_s * (in_logits + price[:, None] * probs * (1.0 - probs))
        dual.step(slack)
        if step in checkpoints:
            state.multipliers = dual.multipliers
            yield step, state


class _Gradients:
    """Estimates of the gradients of the expected loss in weights and logits."""

    def __init__(self, problem: Regression, estimator: str, chains: int, source: torch.Generator) -> None:
        self.problem, self.estimator, self.source = problem, estimator, source
        self.gate, self.baseline = (
            HardConcrete(),
            torch.full((chains,), 0.5 * problem.target_variance, dtype=torch.float64),
        )

    def __call__(self, weights: Tensor, logits: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        if self.estimator == "exact":
            in_weights, in_probs = self.problem.exact_gradients(weights, probs)
            return in_weights, in_probs * probs * (1.0 - probs)
        uniform = torch.rand(logits.shape, generator=self.source, dtype=logits.dtype)
        if self.estimator == "REINFORCE":
            gates = (uniform < probs).double()
            loss = self.problem.loss(weights, gates)
            in_logits = (loss - self.baseline)[:, None] * (gates - probs)
            self.baseline = self.baseline + _BASELINE_RATE * (loss - self.baseline)
            return gates * self.problem.residual(weights, gates), in_logits
        gates = self.gate.sample(logits, uniform)
        residual = self.problem.residual(weights, gates)
        return gates * residual, weights * residual * gate_slope(self.gate, gates)


def gate_slope(gate: HardConcrete, gates: Tensor) -> Tensor:
    """Compute dz/ds of sampled Hard-Concrete gates from their values; 0 where a gate is clamped."""
    y = (gates - gate.gamma) / (gate.zeta - gate.gamma)
    slope = y * (1.0 - y) * (gate.zeta - gate.gamma) / gate.beta
    return torch.where((gates > 0.0) & (gates < 1.0), slope, 0.0)


def _normal(chains: int, source: torch.Generator) -> Tensor:
    return 0.5 * torch.randn(chains, FEATURES, generator=source, dtype=torch.float64)
