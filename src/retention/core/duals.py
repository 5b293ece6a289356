"""Provide dual variables, which hold the expected number of kept tokens at the budget.

``ExactDual`` solves for the multiplier of every sample, so the constraint holds in each forward pass and no penalty is
needed. ``AscentDual`` is the Lagrangian of the paper (eqs. 4-5) with a stabilizing quadratic term; ``FixedDual`` and
``JointDual`` are its ablations of Table 3.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from retention.core.hard_concrete import HardConcrete
from retention.core.settings import RecordsSettings
from retention.errors import require, require_number

COUNTS = ("sigmoid", "nonzero")
_OPEN_LOGIT = 30.0  # sigmoid is 1 here to float32 rounding
_BISECTIONS = 40


class Dual(RecordsSettings, nn.Module):
    """Base class of dual variables.

    Args:
        count: what the budget counts: ``sigmoid`` = sum of sigmoid(s), as in eq. 3; ``nonzero`` = sum of P(z > 0), as
            in L0 regularization. With the default gates a budget on the sigmoids leaves more gates non-zero than it
            counts (about 68 % at a keep ratio of 30 %), so soft training sees more tokens than inference.

    Raises:
        ConfigError: ``count`` is unknown.
    """

    def __init__(self, *, count: str) -> None:
        require(count in COUNTS, "count", f"must be one of {', '.join(COUNTS)}, got {count!r}")
        super().__init__()
        self.count = count

    def setup(self, num_gates: int) -> None:
        """Allocate one multiplier per gate."""
        self.register_buffer("multipliers", torch.zeros(num_gates))
        self.multipliers: Tensor

    def keep_probs(self, logits: Tensor, gate: HardConcrete) -> Tensor:
        """Compute the probabilities that the budget counts, same shape as ``logits``."""
        return gate.prob_nonzero(logits) if self.count == "nonzero" else torch.sigmoid(logits)

    @abstractmethod
    def gate_logits(
        self, scores: Tensor, target: Tensor, survival: Tensor, protected: Tensor, gate: HardConcrete
    ) -> Tensor:
        """Compute the logits of the gates from scores [B, N] and the budget [B].

        Args:
            scores: [B, N].
            target: [B] float, budget in tokens.
            survival: [B, N], probability in [0, 1] that earlier gates kept the token; 0 on padding.
            protected: [B, N] bool, True = counted as kept with probability 1.
            gate: Hard-Concrete distribution of the gates.
        """

    @abstractmethod
    def penalty(self, slack: Tensor) -> Tensor:
        """Compute the scalar term of the loss from the slack [G].

        Args:
            slack: [G], mean over the batch of expected kept tokens - budget, in tokens if ``uses_raw_slack``, else
                divided by the real tokens of each sample.
        """

    @abstractmethod
    def step(self, slack: Tensor) -> None:
        """Update the multipliers once per optimizer step.

        Args:
            slack: [G], see ``penalty``; averaged over micro-batches and ranks.
        """

    @abstractmethod
    def uses_raw_slack(self) -> bool:
        """Return True if the slack is measured in tokens instead of relative to the length."""


class AscentDual(Dual):
    """Projected gradient ascent on the multipliers (paper, eqs. 4-5), with an augmented Lagrangian term.

    lambda <- max(0, lambda + eta slack) after ``warmup_steps``; the loss gets lambda slack + (augmented / 2) slack^2.

    Differs from the paper: the quadratic term is on by default. Plain ascent overshoots: lambda keeps growing until the
    budget is met and closes nearly every gate before it returns to 0. The quadratic term acts in both directions and
    pulls the number of kept tokens up again. ``augmented=0`` is the form of the paper.

    Args:
        eta: dual step size, > 0 (1e-2 in the paper).
        augmented: weight of the quadratic term, >= 0.
        warmup_steps: optimizer steps before the multipliers move, >= 0.
        normalized: divide the slack by the length, so that one ``eta`` fits all lengths; False measures it in tokens,
            as written in the paper.
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
        normalized: bool = True,
        count: str = "sigmoid",
    ) -> None:
        require_number("eta", eta, above=0, name="the dual step")
        require_number("augmented", augmented, low=0, name="the quadratic term (0 = the paper's Lagrangian)")
        require_number("warmup_steps", warmup_steps, low=0)
        super().__init__(count=count)
        self.eta = eta
        self.augmented = augmented
        self.warmup_steps = warmup_steps
        self.normalized = normalized
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.steps: Tensor

    def gate_logits(
        self, scores: Tensor, target: Tensor, survival: Tensor, protected: Tensor, gate: HardConcrete
    ) -> Tensor:
        """Return the scores, with open gates for protected tokens."""
        return torch.where(protected, scores.new_full((), _OPEN_LOGIT), scores)

    def penalty(self, slack: Tensor) -> Tensor:
        """Compute lambda slack + (augmented / 2) slack^2, summed over the gates."""
        return (self.multipliers * slack + 0.5 * self.augmented * slack.square()).sum()

    def step(self, slack: Tensor) -> None:
        """Ascend on the multipliers and project them to lambda >= 0."""
        self.steps += 1
        if int(self.steps) > self.warmup_steps:
            self.multipliers.add_(self.eta * slack.to(self.multipliers)).clamp_(min=0.0)

    def uses_raw_slack(self) -> bool:
        """Return True if the slack is measured in tokens."""
        return not self.normalized


class FixedDual(AscentDual):
    """Lagrangian of eq. 4 with a constant lambda (paper, Table 3, fixed lambda).

    The number of tokens kept in training depends on lambda, not on the budget. At test time the top M tokens are kept
    (eq. 7), so the budget is met there.

    Differs from the paper: it does not say which constant its ablation uses; 1 is our choice.

    Args:
        value: lambda, >= 0.
        normalized: see ``AscentDual``.
        count: see ``Dual``.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(self, *, value: float = 1.0, normalized: bool = True, count: str = "sigmoid") -> None:
        require_number("value", value, low=0, name="the multiplier")
        super().__init__(augmented=0.0, normalized=normalized, count=count)
        self.value = value

    def setup(self, num_gates: int) -> None:
        """Allocate the constant multipliers."""
        super().setup(num_gates)
        self.multipliers = torch.full_like(self.multipliers, self.value)

    def step(self, slack: Tensor) -> None:
        """Leave the multipliers as they are."""


class JointDual(AscentDual):
    """Descent on the model and ascent on lambda in one optimizer step (paper, Table 3, no alternating optimization).

    The multipliers are parameters with the learning rate of the policy. The penalty has the value lambda slack, but its
    gradient in lambda is negated, so an optimizer that descends on all parameters ascends on these. After each step
    they are projected to lambda >= 0.

    Differs from the paper: it does not say how the joint step is taken. The quadratic term of ``AscentDual`` is kept,
    so that the ablation removes the alternation only.

    Args:
        augmented: weight of the quadratic term, >= 0; 0 = the paper's Lagrangian.
        normalized: see ``AscentDual``.
        count: see ``Dual``.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(self, *, augmented: float = 10.0, normalized: bool = True, count: str = "sigmoid") -> None:
        super().__init__(augmented=augmented, normalized=normalized, count=count)

    def setup(self, num_gates: int) -> None:
        """Allocate the multipliers as parameters."""
        self.multipliers = nn.Parameter(torch.zeros(num_gates))

    def penalty(self, slack: Tensor) -> Tensor:
        """Compute the penalty of ``AscentDual``, with the gradient in the multipliers negated."""
        negated = 2 * self.multipliers.detach() - self.multipliers
        quadratic = 0.5 * self.augmented * slack.square()
        return (negated * slack.detach() + self.multipliers.detach() * (slack - slack.detach()) + quadratic).sum()

    def step(self, slack: Tensor) -> None:
        """Project the multipliers, which the optimizer has already moved, to lambda >= 0."""
        with torch.no_grad():
            self.multipliers.clamp_(min=0.0)


class ExactDual(Dual):
    """Per-sample multiplier tau with sum_t survival_t p(s_t - tau) = budget, found by bisection and one Newton step.

    The bisection runs without gradient; the Newton step from its result carries the exact derivative of tau with
    respect to scores, survival and budget (implicit function theorem). It has no hyper-parameter except ``count``.

    Differs from the paper: eqs. 4-5 ascend on one multiplier for all samples. Stationarity in s of the
    entropy-regularized problem gives the same shift by tau; with temperature 1 the probabilities are the relaxed top-k
    of Xie et al. (2020, arXiv 2002.06504), who solve it as optimal transport.

    Args:
        count: see ``Dual``.

    Raises:
        ConfigError: ``count`` is unknown.
    """

    def __init__(self, *, count: str = "sigmoid") -> None:
        super().__init__(count=count)

    def gate_logits(
        self, scores: Tensor, target: Tensor, survival: Tensor, protected: Tensor, gate: HardConcrete
    ) -> Tensor:
        """Shift the scores of each sample by its multiplier, so that the expected count equals the budget."""
        shift = gate.open_shift if self.count == "nonzero" else 0.0
        free = survival * ~protected
        remaining = target - (survival * protected).sum(1)
        tau = solve_multiplier(scores + shift, free, remaining)
        return torch.where(protected, scores.new_full((), _OPEN_LOGIT), scores - tau.unsqueeze(1))

    def penalty(self, slack: Tensor) -> Tensor:
        """Return 0: the constraint holds in each forward pass."""
        return slack.new_zeros(())

    def step(self, slack: Tensor) -> None:
        """Leave the multipliers at 0: they are solved for in each forward pass."""

    def uses_raw_slack(self) -> bool:
        """Return False: the slack is relative to the length."""
        return False


def solve_multiplier(scores: Tensor, weights: Tensor, budget: Tensor) -> Tensor:
    """Solve sum_t weights_t sigmoid(scores_t - tau) = budget for tau, per sample and differentiable.

    Args:
        scores: [B, N].
        weights: [B, N] in [0, 1].
        budget: [B] float; at or above sum(weights) every gate opens, at or below 0 every gate closes.

    Returns:
        tau [B].
    """
    with torch.no_grad():
        counted = weights > 0
        s, w, goal = scores.double(), weights.double(), budget.double()
        low = s.masked_fill(~counted, torch.inf).amin(1).clamp(-1e4, 1e4) - _OPEN_LOGIT
        high = s.masked_fill(~counted, -torch.inf).amax(1).clamp(-1e4, 1e4) + _OPEN_LOGIT
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            over = (w * torch.sigmoid(s - middle.unsqueeze(1))).sum(1) > goal
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        start = (0.5 * (low + high)).to(scores.dtype)
    kept = weights * torch.sigmoid(scores - start.unsqueeze(1))
    with torch.no_grad():
        shifted = scores - start.unsqueeze(1)
        slope = (weights * torch.sigmoid(shifted) * torch.sigmoid(-shifted)).sum(1)
    # Where every gate is saturated the budget cannot be met, and tau has no useful derivative.
    newton = (kept.sum(1) - budget) / slope.clamp_min(1e-6)
    return start + torch.where(slope > 1e-3, newton, torch.zeros_like(newton))
