"""Find the most likely spans among all pairs of a start and an end token."""

from __future__ import annotations

import torch
from torch import Tensor


def best_spans(starts: Tensor, ends: Tensor, count: int, max_length: int) -> tuple[Tensor, Tensor]:
    """Return the spans with the highest sum of start and end score, among those that begin at one of the best starts.

    Args:
        starts: [B, T] float.
        ends: [B, T] float.
        count: number of starts that are tried and of spans that are returned; fewer where there are fewer.
        max_length: maximum length of a span in tokens.

    Returns:
        Spans [B, S, 2] long (first and last token), best first, and their scores [B, S]; -inf = no such span.
    """
    width = starts.shape[1]
    start_scores, first = starts.topk(min(count, width))
    last = first.unsqueeze(-1) + torch.arange(min(max_length, width), device=starts.device)  # [B, S, L]
    end_scores = ends.gather(1, last.clamp(max=width - 1).flatten(1)).view(last.shape)
    scores = (start_scores.unsqueeze(-1) + end_scores).masked_fill(last >= width, -torch.inf).flatten(1)
    best_scores, chosen = scores.topk(min(count, scores.shape[1]))
    first = first.unsqueeze(-1).expand(last.shape).flatten(1)
    spans = torch.stack([first.gather(1, chosen), last.flatten(1).gather(1, chosen)], dim=-1)
    return spans, best_scores


def span_means(spans: Tensor, values: Tensor) -> Tensor:
    """Compute the mean of ``values`` [B, T] over the tokens of each span, [B, K]; 0 for no span.

    Args:
        spans: [B, K, 2] long, first and last token; -1 = no span.
        values: one number per token.
    """
    sums = torch.nn.functional.pad(values.double().cumsum(1), (1, 0))  # [B, T + 1]
    first, last = spans.clamp(min=0).unbind(-1)
    means = (sums.gather(1, last + 1) - sums.gather(1, first)) / (last + 1 - first)
    return means.masked_fill(spans[..., 0] < 0, 0.0)


def complete_spans(spans: Tensor, present: Tensor) -> Tensor:
    """Return True for spans of which all tokens are present, [B, K] bool; False for no span.

    Args:
        spans: [B, K, 2] long, first and last token; -1 = no span.
        present: [B, T] bool.
    """
    missing = torch.nn.functional.pad((~present).long().cumsum(1), (1, 0))  # [B, T + 1]
    first, last = spans.clamp(min=0).unbind(-1)
    return (missing.gather(1, last + 1) == missing.gather(1, first)) & (spans[..., 0] >= 0)


def span_mask(spans: Tensor, width: int) -> Tensor:
    """Return True for tokens in any of the spans, [B, width] bool.

    Args:
        spans: [B, K, 2] long, first and last token; -1 = no span.
        width: T.
    """
    positions = torch.arange(width, device=spans.device)
    first, last = spans.unsqueeze(-1).unbind(2)  # [B, K, 1]
    return ((positions >= first) & (positions <= last) & (first >= 0)).any(1)
