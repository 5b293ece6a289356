"""Solve small retention problems exactly: minimizers of the Lagrangian, best feasible losses and dual values.

For independent gates the Lagrangian E_{z ~ Bernoulli(p)} f(z) + lambda (sum_t p_t - M) is linear in each p_t, so a
minimizer over [0, 1]^T lies at a corner: a mask. Enumerating the masks therefore gives its exact minimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reproduction.theory.instances import all_masks, attention_objective, expected_loss, generator, pairwise_objective

TOKENS = 6
FAMILIES = ("independent values", "pairwise", "attention")
_STARTS, _STEPS = 6, 80  # of the search for feasible probabilities


@dataclass(frozen=True)
class Problems:
    """Retention problems min E f(z) subject to sum_t p_t <= M, each with a multiplier.

    Attributes:
        values: f of every mask, [n, 2^T].
        budgets: M, [n] float.
        multipliers: lambda > 0, [n].
    """

    values: Tensor
    budgets: Tensor
    multipliers: Tensor

    @property
    def counts(self) -> Tensor:
        """Number of kept tokens of every mask, [2^T]."""
        return all_masks(_tokens(self.values)).sum(-1)

    def lagrangian(self) -> Tensor:
        """Compute the Lagrangian at every mask, [n, 2^T]."""
        return self.values + self.multipliers[:, None] * (self.counts - self.budgets[:, None])

    def minimizers(self) -> Tensor:
        """Return the row number of the mask that minimizes the Lagrangian, [n]."""
        return self.lagrangian().argmin(-1)

    def slack(self, rows: Tensor) -> Tensor:
        """Compute the slack D = |z| - M of masks, [n]."""
        return self.counts[rows] - self.budgets

    def loss(self, rows: Tensor) -> Tensor:
        """Return f of masks, [n]."""
        return self.values.gather(-1, rows[:, None]).squeeze(-1)

    def best_feasible_mask(self) -> Tensor:
        """Compute the lowest loss of a mask with at most M tokens, [n]."""
        feasible = self.counts <= self.budgets[:, None]
        return self.values.masked_fill(~feasible, float("inf")).amin(-1)

    def dual_value(self) -> Tensor:
        """Compute the dual function g(lambda), the minimum of the Lagrangian over p, [n]."""
        return self.lagrangian().amin(-1)


def random_problems(family: str, number: int, seed: int) -> Problems:
    """Draw problems of a family, with budgets 1 ... T - 1 and multipliers log-uniform around the scale of the losses.

    Args:
        family: one of ``FAMILIES``.
        number: number of problems.
        seed: of the losses, budgets and multipliers.
    """
    source, masks = generator(seed), all_masks(TOKENS)
    if family == "independent values":
        values = torch.randn(number, len(masks), generator=source, dtype=torch.float64)
    else:
        build = pairwise_objective if family == "pairwise" else attention_objective
        seeds = torch.randint(2**31, (number,), generator=source)
        values = torch.stack([build(int(each), TOKENS)(masks) for each in seeds])
    budgets = torch.randint(1, TOKENS, (number,), generator=source).double()
    exponents = torch.rand(number, generator=source, dtype=torch.float64) * 4.0 - 3.0
    return Problems(values, budgets, values.std(-1) * 10.0 ** (0.5 * exponents))


def best_feasible_loss(problems: Problems, seed: int = 0) -> Tensor:
    """Compute the lowest expected loss over feasible keep probabilities that a search finds, [n].

    Frank-Wolfe from several starts; a linear step over {0 <= p <= 1, sum p <= M} keeps the M tokens that reduce the
    loss most. Never above the best mask. The search may miss the global minimum: too high an F* weakens the test
    of Proposition 1, and hides failures of Lemma 3 instead of adding some.
    """
    n, tokens = len(problems.budgets), _tokens(problems.values)
    values = problems.values[:, None].expand(-1, _STARTS, -1)
    start = torch.rand(n, _STARTS, tokens, generator=generator(seed), dtype=torch.float64)
    probs = start * (problems.budgets[:, None, None] / start.sum(-1, keepdim=True)).clamp(max=1.0)
    lowest = problems.best_feasible_mask()
    for step in range(_STEPS):
        probs.requires_grad_()
        losses = expected_loss(values, probs)
        (gradient,) = torch.autograd.grad(losses.sum(), probs)
        lowest = torch.minimum(lowest, losses.detach().amin(-1))
        ranks = gradient.argsort(-1).argsort(-1)
        corner = ((ranks < problems.budgets[:, None, None]) & (gradient < 0)).double()
        probs = probs.detach() + 2.0 / (step + 3.0) * (corner - probs.detach())
    return lowest


def corner_minima(problems: Problems) -> Tensor:
    """Return the masks at which no single probability can be changed to lower the Lagrangian, [n, 2^T] bool.

    These are the Karush-Kuhn-Tucker points among the corners; the exact minimizers are some of them.
    """
    lagrangian, tokens = problems.lagrangian(), _tokens(problems.values)
    rows = torch.arange(lagrangian.shape[-1])
    neighbors = torch.stack([lagrangian[:, rows ^ (1 << token)] for token in range(tokens)])
    return (neighbors >= lagrangian).all(0)


def optimal_multiplier(losses: Sequence[float], budget: float) -> float:
    """Return the multiplier >= 0 that maximizes the dual function; exact, by the lower convex hull.

    Args:
        losses: lowest loss of a mask with k tokens, k = 0 ... T.
        budget: M.
    """
    candidates = {0.0}
    for fewer in range(len(losses)):
        for more in range(fewer + 1, len(losses)):
            candidates.add(max(0.0, (losses[fewer] - losses[more]) / (more - fewer)))
    return max(
        sorted(candidates),
        key=lambda multiplier: min(loss + multiplier * (count - budget) for count, loss in enumerate(losses)),
    )


def _tokens(values: Tensor) -> int:
    return values.shape[-1].bit_length() - 1
