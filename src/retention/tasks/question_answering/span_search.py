"""Finding the most likely spans among all pairs of a start and an end."""

from __future__ import annotations

import torch
from torch import Tensor


def best_spans(starts: Tensor, ends: Tensor, count: int, max_length: int) -> tuple[Tensor, Tensor]:
    """The spans with the highest sum of start and end score, among those that begin at one of the best starts.

    Args:
        starts: [B, T] float.
        ends: [B, T] float.
        count: starts that are tried, and spans returned; fewer where there are fewer.
        max_length: tokens of a span.

    Returns:
        Places [B, S, 2] long (first, last), best first, and scores [B, S]; -inf where there is no such span.
    """
    width = starts.shape[1]
    start_scores, first = starts.topk(min(count, width))
    last = first.unsqueeze(-1) + torch.arange(min(max_length, width), device=starts.device)  # [B, S, L]
    end_scores = ends.gather(1, last.clamp(max=width - 1).flatten(1)).view(last.shape)
    scores = (start_scores.unsqueeze(-1) + end_scores).masked_fill(last >= width, -torch.inf).flatten(1)
    best, chosen = scores.topk(min(count, scores.shape[1]))
    begins = first.unsqueeze(-1).expand(last.shape).flatten(1)
    places = torch.stack([begins.gather(1, chosen), last.flatten(1).gather(1, chosen)], dim=-1)
    return places, best


def span_means(spans: Tensor, values: Tensor) -> Tensor:
    """Mean of ``values`` [B, T] over the tokens of each span, [B, K]; 0 for no span.

    Args:
        spans: [B, K, 2] long, first and last token; -1 = no span.
        values: one number per token.
    """
    sums = torch.nn.functional.pad(values.double().cumsum(1), (1, 0))  # [B, T + 1]
    first, last = spans.clamp(min=0).unbind(-1)
    means = (sums.gather(1, last + 1) - sums.gather(1, first)) / (last + 1 - first)
    return means.masked_fill(spans[..., 0] < 0, 0.0)


def held_spans(spans: Tensor, present: Tensor) -> Tensor:
    """Whether all tokens of a span are present, [B, K] bool; False for no span.

    Args:
        spans: [B, K, 2] long, first and last token; -1 = no span.
        present: [B, T] bool.
    """
    gaps = torch.nn.functional.pad((~present).long().cumsum(1), (1, 0))  # [B, T + 1]
    first, last = spans.clamp(min=0).unbind(-1)
    return (gaps.gather(1, last + 1) == gaps.gather(1, first)) & (spans[..., 0] >= 0)
