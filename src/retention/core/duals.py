"""Dual variables: what holds the expected number of kept tokens at the budget.

Two forms share one interface. ``AscentDual`` is the paper's Lagrangian (eqs. 4-5) made stable; ``ExactDual`` solves
for the multiplier of every sample, so the constraint holds in each forward pass and no penalty is needed.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from retention.core.hard_concrete import HardConcrete
from retention.errors import Checks

COUNTS = ("sigmoid", "nonzero")
_OPEN = 30.0  # a logit at which sigmoid is 1 to float32 rounding
_BISECTIONS = 40


class Dual(nn.Module):
    """Base of both forms.

    Args:
        count: what the budget counts: ``sigmoid`` = sum sigmoid(s), as in eq. 3; ``nonzero`` = sum P(z > 0), as in L0
            regularisation (paper.md, rulings 4 and 13).
    """

    def __init__(self, *, count: str) -> None:
        super().__init__()
        self.count = count

    def setup(self, num_gates: int) -> None:
        """Allocate one multiplier per gate."""
        self.register_buffer("multipliers", torch.zeros(num_gates))
        self.multipliers: Tensor

    def keep_probs(self, logits: Tensor, gate: HardConcrete) -> Tensor:
        """Probability that the budget counts, same shape as ``logits``."""
        return gate.prob_nonzero(logits) if self.count == "nonzero" else torch.sigmoid(logits)

    @abstractmethod
    def gate_logits(
        self, scores: Tensor, target: Tensor, survival: Tensor, protected: Tensor, gate: HardConcrete
    ) -> Tensor:
        """Logits of the gates, given scores [B, N] and the budget [B].

        Args:
            scores: [B, N].
            target: [B] float, tokens.
            survival: [B, N], probability in [0, 1] that the token was let through so far; 0 on padding.
            protected: [B, N] bool, True = counted as kept with probability 1.
            gate: the Hard-Concrete parameters.
        """

    @abstractmethod
    def penalty(self, slack: Tensor) -> Tensor:
        """Scalar term added to the loss; ``slack`` is [G], mean over the batch of (kept - budget) / T or raw tokens."""

    @abstractmethod
    def step(self, slack: Tensor) -> None:
        """Dual step on the slack [G] averaged over micro-batches and ranks; called once per optimiser step."""

    @abstractmethod
    def uses_raw_slack(self) -> bool:
        """Whether slack is in tokens instead of a share of T."""


class AscentDual(Dual):
    """Projected gradient ascent on the multipliers (paper, eqs. 4-5), with an augmented term.

    lambda <- max(0, lambda + eta slack) after ``warmup_steps``; the loss gets lambda slack + (augmented / 2) slack^2.

    Differs from the paper: the quadratic term is on by default and two-sided. Plain ascent overshoots - lambda keeps
    growing until the budget is met, and closes every gate before it returns to 0 (paper.md, ruling 15); the quadratic
    term pulls an overshooting sum back up. ``augmented=0`` is the paper's form.

    Args:
        eta: dual step size, > 0 (1e-2 in the paper).
        augmented: weight of the quadratic term, >= 0.
        warmup_steps: optimiser steps before the multipliers move, >= 0.
        normalised: slack as a share of T (ruling 4); ``False`` = raw tokens, as written in the paper.
        count: see ``Dual``.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self,
        *,
        eta: float = 1e-2,
        augmented: float = 10.0,
        warmup_steps: int = 0,
        normalised: bool = True,
        count: str = "sigmoid",
    ) -> None:
        checks = Checks()
        checks.require(eta > 0, "eta", f"the dual step must be > 0, got {eta}")
        checks.require(augmented >= 0, "augmented", f"must be >= 0 (0 = the paper's Lagrangian), got {augmented}")
        checks.require(warmup_steps >= 0, "warmup_steps", f"must be >= 0, got {warmup_steps}")
        checks.require(count in COUNTS, "count", f"must be one of {', '.join(COUNTS)}, got {count!r}")
        checks.finish()
        super().__init__(count=count)
        self.eta = eta
        self.augmented = augmented
        self.warmup_steps = warmup_steps
        self.normalised = normalised
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.steps: Tensor

    def gate_logits(
        self, scores: Tensor, target: Tensor, survival: Tensor, protected: Tensor, gate: HardConcrete
    ) -> Tensor:
        return torch.where(protected, scores.new_full((), _OPEN), scores)

    def penalty(self, slack: Tensor) -> Tensor:
        return (self.multipliers * slack + 0.5 * self.augmented * slack.square()).sum()

    def step(self, slack: Tensor) -> None:
        self.steps += 1
        if int(self.steps) > self.warmup_steps:
            self.multipliers.add_(self.eta * slack.to(self.multipliers)).clamp_(min=0.0)

    def uses_raw_slack(self) -> bool:
        return not self.normalised


class ExactDual(Dual):
    """The multiplier of every sample in closed form: tau with sum_t survival_t p(s_t - tau) = budget.

    tau is found by bisection without gradient; one Newton step from there carries the exact derivative of tau with
    respect to scores, survival and budget (implicit function theorem). Nothing to tune, nothing to collapse.

    Differs from the paper: eqs. 4-5 ascend one multiplier for all samples; the stationarity condition in s of the
    entropy-regularised problem is the same shift by tau.

    Args:
        count: see ``Dual``.

    Raises:
        ConfigError: ``count`` is unknown.
    """

    def __init__(self, *, count: str = "sigmoid") -> None:
        checks = Checks()
        checks.require(count in COUNTS, "count", f"must be one of {', '.join(COUNTS)}, got {count!r}")
        checks.finish()
        super().__init__(count=count)

    def gate_logits(
        self, scores: Tensor, target: Tensor, survival: Tensor, protected: Tensor, gate: HardConcrete
    ) -> Tensor:
        shift = gate.open_shift if self.count == "nonzero" else 0.0
        free = survival * ~protected
        wanted = target - (survival * protected).sum(1)
        tau = solve_multiplier(scores + shift, free, wanted)
        return torch.where(protected, scores.new_full((), _OPEN), scores - tau.unsqueeze(1))

    def penalty(self, slack: Tensor) -> Tensor:
        return slack.new_zeros(())

    def step(self, slack: Tensor) -> None:
        """Nothing to ascend."""

    def uses_raw_slack(self) -> bool:
        return False


def solve_multiplier(scores: Tensor, weights: Tensor, budget: Tensor) -> Tensor:
    """tau with sum_t weights_t sigmoid(scores_t - tau) = budget, per sample and differentiable.

    Args:
        scores: [B, N].
        weights: [B, N] in [0, 1].
        budget: [B] float; at or above sum(weights) every gate opens, at or below 0 every gate closes.

    Returns:
        tau [B].
    """
    with torch.no_grad():
        live = weights > 0
        s, w, goal = scores.double(), weights.double(), budget.double()
        low = s.masked_fill(~live, torch.inf).amin(1).clamp(-1e4, 1e4) - _OPEN
        high = s.masked_fill(~live, -torch.inf).amax(1).clamp(-1e4, 1e4) + _OPEN
        for _ in range(_BISECTIONS):
            attention_output = 0.5 * (low + high)
            over = (w * torch.sigmoid(s - attention_output.unsqueeze(1))).sum(1) > goal
            low, high = torch.where(over, attention_output, low), torch.where(over, high, attention_output)
        start = (0.5 * (low + high)).to(scores.dtype)
    kept = weights * torch.sigmoid(scores - start.unsqueeze(1))
    with torch.no_grad():
        shifted = scores - start.unsqueeze(1)
        slope = (weights * torch.sigmoid(shifted) * torch.sigmoid(-shifted)).sum(1)
    # where every gate is saturated the budget cannot be met and tau has no useful derivative
    newton = (kept.sum(1) - budget) / slope.clamp_min(1e-6)
    return start + torch.where(slope > 1e-3, newton, torch.zeros_like(newton))
