"""Strict top-M selection: deterministic, order-preserving, protected tokens first."""

from __future__ import annotations

import torch
from torch import Tensor


def topk_mask(scores: Tensor, counts: Tensor, valid: Tensor, protected: Tensor) -> Tensor:
    """Keep the ``counts`` highest-scoring tokens of every sample (paper, eq. 7).

    Protected tokens come first and count towards the budget; if a sample has more of them than its count, all of
    them are kept. Padding is never kept. Ties go to the earlier token (stable sort), so the result is reproducible.

    Args:
        scores: [B, N]; higher is kept.
        counts: [B] long, budget M in tokens.
        valid: [B, N] bool, True = real token.
        protected: [B, N] bool, True = always kept where valid.

    Returns:
        keep_mask [B, N] bool, True = kept; exactly max(min(counts, real), protected) per sample.
    """
    protected = protected & valid
    ranked = scores.detach().float().masked_fill(protected, torch.inf).masked_fill(~valid, -torch.inf)
    order = torch.sort(ranked, dim=1, descending=True, stable=True).indices
    budget = torch.maximum(torch.minimum(counts, valid.sum(1)), protected.sum(1))
    chosen = torch.arange(scores.shape[1], device=scores.device).unsqueeze(0) < budget.unsqueeze(1)
    return torch.zeros_like(valid).scatter(1, order, chosen)


def span_means_over(scores: Tensor, spans: Tensor, free: Tensor) -> Tensor:
    """Give the tokens of a unit one score, the mean of theirs; the scores of others stay.

    Where tokens are selected by such scores, a unit of neighbours goes or stays as one. ``select_top`` still meets its
    count exactly: ties go to the earlier token, so of the last unit that is kept the first tokens stay.

    Args:
        scores: [B, N].
        units: [B, N] long >= 0, the same number for the tokens of a unit.
        free: [B, N] bool, False = counts for nothing (padding, protected tokens).
    """
    shape = (len(spans), int(spans.amax()) + 1)
    sums = scores.new_zeros(shape).scatter_add(1, spans, torch.where(free, scores, 0.0))
    counts = scores.new_zeros(shape).scatter_add(1, spans, free.to(scores.dtype))
    return torch.where(free, (sums / counts.clamp_min(1.0)).gather(1, spans), scores)


def threshold_mask(scores: Tensor, level: float | Tensor, valid: Tensor, protected: Tensor) -> Tensor:
    """Keep every token whose score reaches ``level``; the count follows the text.

    Protected tokens are always kept, padding never, and of a sample without any such token the best one: an empty
    sequence has no attention to give.

    Args:
        scores: [B, N].
        level: scalar.
        valid: [B, N] bool, True = real token.
        protected: [B, N] bool, True = always kept where valid.

    Returns:
        keep_mask [B, N] bool, True = kept.
    """
    keep = valid & ((scores >= level) | protected)
    best = scores.detach().masked_fill(~valid, -torch.inf).argmax(1, keepdim=True)
    return keep | (torch.zeros_like(valid).scatter(1, best, True) & ~keep.any(1, keepdim=True))
