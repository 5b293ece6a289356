"""Draw single-sample gradients: pathwise through Hard-Concrete gates, and REINFORCE through Bernoulli gates."""

from __future__ import annotations

import torch
from torch import Tensor

from reproduction.theory.instances import Objective
from retention.core.hard_concrete import HardConcrete

CHUNK = 100_000  # draws that are held in memory at once


def pathwise_gradients(
    objective: Objective,
    logits: Tensor,
    gate: HardConcrete,
    draws: int,
    source: torch.Generator,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """Draw pathwise gradients of f(z) in the logits (paper, eq. 6).

    Args:
        objective: f.
        logits: s, [T].
        gate: distribution of the gates z.
        draws: number of draws.
        source: random generator.
        chunk: draws that are differentiated at once.

    Returns:
        One gradient per draw, [draws, T].
    """
    parts = []
    for size in _chunk_sizes(draws, chunk):
        variable = logits.detach().expand(size, -1).clone().requires_grad_()
        uniform = torch.rand(variable.shape, generator=source, dtype=logits.dtype)
        (gradient,) = torch.autograd.grad(objective(gate.sample(variable, uniform)).sum(), variable)
        parts.append(gradient)
    return torch.cat(parts)


def reinforce_gradients(
    objective: Objective, logits: Tensor, draws: int, source: torch.Generator, baseline: float = 0.0
) -> Tensor:
    """Draw REINFORCE gradients (f(z) - baseline) (z - p), z ~ Bernoulli(p) (Williams, 1992).

    Returns:
        One gradient per draw, [draws, T].
    """
    probs = torch.sigmoid(logits)
    parts = []
    for size in _chunk_sizes(draws, CHUNK):
        masks = (torch.rand(size, len(probs), generator=source, dtype=logits.dtype) < probs).to(logits.dtype)
        parts.append((objective(masks) - baseline)[:, None] * (masks - probs))
    return torch.cat(parts)


def variance_trace(gradients: Tensor) -> float:
    """Compute the trace of the covariance of draws [N, T]."""
    return float(gradients.var(0).sum())


def _chunk_sizes(draws: int, chunk: int) -> list[int]:
    whole, rest = divmod(draws, chunk)
    return [chunk] * whole + ([rest] if rest else [])
