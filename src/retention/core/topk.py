"""Select tokens by score: exact top-k and thresholds, deterministic and order-preserving."""

from __future__ import annotations

import torch
from torch import Tensor


def topk_mask(scores: Tensor, counts: Tensor, valid: Tensor, protected: Tensor) -> Tensor:
    """Keep the ``counts`` highest-scoring tokens of every sample (paper, eq. 7).

    Protected tokens come first and count towards the budget; a sample with more protected tokens than its count keeps
    all of them. Padding is never kept, and NaN ranks below every number. Ties go to the earlier token (stable sort), so
    the result is reproducible.

    Args:
        scores: [B, N]; higher is kept.
        counts: [B] long, budget M in tokens.
        valid: [B, N] bool, True = real token.
        protected: [B, N] bool, True = always kept where valid.

    Returns:
        keep_mask [B, N] bool, True = kept; exactly max(min(counts, real), protected) tokens per sample.
    """
    protected = protected & valid
    ranked = scores.detach().float().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    ranked = ranked.masked_fill(protected, torch.inf).masked_fill(~valid, -torch.inf)
    order = torch.sort(ranked, dim=1, descending=True, stable=True).indices
    budget = torch.maximum(torch.minimum(counts, valid.sum(1)), protected.sum(1))
    selected = torch.arange(scores.shape[1], device=scores.device).unsqueeze(0) < budget.unsqueeze(1)
    return torch.zeros_like(valid).scatter(1, order, selected)


def span_means(scores: Tensor, spans: Tensor, free: Tensor) -> Tensor:
    """Replace the scores of free tokens by the mean over their span; other scores are unchanged.

    Tokens selected by such scores are kept or removed span by span. ``topk_mask`` still meets its count exactly: ties
    go to the earlier token, so at most the last kept span is cut, and its first tokens are kept.

    Args:
        scores: [B, N].
        spans: [B, N] long >= 0, equal for the tokens of a span.
        free: [B, N] bool, False = left out of the mean (padding, protected tokens).
    """
    shape = (len(spans), int(spans.amax()) + 1)
    sums = scores.new_zeros(shape).scatter_add(1, spans, torch.where(free, scores, 0.0))
    counts = scores.new_zeros(shape).scatter_add(1, spans, free.to(scores.dtype))
    return torch.where(free, (sums / counts.clamp_min(1.0)).gather(1, spans), scores)


def threshold_mask(scores: Tensor, threshold: float | Tensor, valid: Tensor, protected: Tensor) -> Tensor:
    """Keep every token whose score reaches ``threshold``; the number of kept tokens depends on the sample.

    Protected tokens are always kept and padding never is. A sample in which no token qualifies keeps its best token,
    because attention over an empty sequence is undefined.

    Args:
        scores: [B, N].
        threshold: scalar.
        valid: [B, N] bool, True = real token.
        protected: [B, N] bool, True = always kept where valid.

    Returns:
        keep_mask [B, N] bool, True = kept.
    """
    keep = valid & ((scores >= threshold) | protected)
    best = scores.detach().masked_fill(~valid, -torch.inf).argmax(1, keepdim=True)
    return keep | (torch.zeros_like(valid).scatter(1, best, True) & ~keep.any(1, keepdim=True))
