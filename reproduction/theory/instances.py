"""Provide small objectives on token masks whose expected loss is exact by enumeration.

An objective maps gates z of shape [..., T] to losses [...]. It takes binary masks and relaxed gates in [0, 1] alike, as
the task loss of the paper does (eq. 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Objective = Callable[[Tensor], Tensor]


def generator(seed: int) -> torch.Generator:
    """Return a CPU generator with a fixed seed."""
    return torch.Generator().manual_seed(seed)


def all_masks(tokens: int) -> Tensor:
    """Return the 2^T masks of T tokens, [2^T, T] float64; bit t of the row number is token t."""
    numbers = torch.arange(2**tokens)
    return ((numbers[:, None] >> torch.arange(tokens)) & 1).double()


def mask_probabilities(probs: Tensor) -> Tensor:
    """Compute the probability of every mask under independent Bernoulli gates.

    Args:
        probs: keep probabilities, [..., T].

    Returns:
        [..., 2^T], in the order of ``all_masks``.
    """
    result = probs.new_ones((*probs.shape[:-1], 1))
    for kept in probs.unsqueeze(-2).unbind(-1):  # each token doubles the number of masks
        result = torch.cat([result * (1.0 - kept), result * kept], dim=-1)
    return result


def expected_loss(values: Tensor, probs: Tensor) -> Tensor:
    """Compute the exact expected loss E_{z ~ Bernoulli(p)} f(z).

    Args:
        values: f of every mask, [..., 2^T].
        probs: keep probabilities, [..., T].
    """
    return (mask_probabilities(probs) * values).sum(-1)


def exact_gradient(objective: Objective, logits: Tensor) -> Tensor:
    """Compute the exact gradient of E_{z ~ Bernoulli(sigmoid(s))} f(z) in the logits s, [T]."""
    values = objective(all_masks(logits.shape[-1])).detach()
    variable = logits.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(expected_loss(values, torch.sigmoid(variable)), variable)
    return gradient


def linear_objective(seed: int, tokens: int = 6) -> Objective:
    """Build a loss that is linear in the gates."""
    weights = torch.randn(tokens, generator=generator(seed), dtype=torch.float64)
    return lambda gates: gates @ weights


def pairwise_objective(seed: int, tokens: int = 6) -> Objective:
    """Build a loss with a term for every token and every pair of tokens; multilinear, as all losses on masks are."""
    source = generator(seed)
    weights = torch.randn(tokens, generator=source, dtype=torch.float64)
    pairs = torch.randn(tokens, tokens, generator=source, dtype=torch.float64).triu(1)
    return lambda gates: gates @ weights + ((gates @ pairs) * gates).sum(-1)


def attention_objective(seed: int, tokens: int = 6, width: int = 4) -> Objective:
    """Build the logistic loss of a query that attends to the kept tokens and to one protected token.

    A gate scales the attention weight of its token before normalization, so z = 0 removes the token exactly.
    """
    source = generator(seed)
    weights = torch.randn(tokens + 1, generator=source, dtype=torch.float64).exp()  # the last token is protected
    values = torch.randn(tokens + 1, width, generator=source, dtype=torch.float64)
    readout = 2.0 * torch.randn(width, generator=source, dtype=torch.float64)
    scores = values @ readout

    def loss(gates: Tensor) -> Tensor:
        mass = gates * weights[:-1]
        logit = (mass @ scores[:-1] + weights[-1] * scores[-1]) / (mass.sum(-1) + weights[-1])
        return torch.nn.functional.softplus(-logit)

    return loss


OBJECTIVES: Mapping[str, Callable[[int], Objective]] = {
    "linear": linear_objective,
    "pairwise": pairwise_objective,
    "attention": attention_objective,
}
