"""Compute which tokens a bounded cache holds, for one moment and for all queries of a chunk at once.

Scores are fixed when a token arrives. A token that leaves the window competes for the bank with all earlier ones; once
it has lost, it can never return, because the number of better tokens only grows. The bank is therefore a function of
the sequence alone and not of the chunks in which it arrived, and each token has a single moment of eviction.

Shapes: B rows (sequences, or key-value heads of sequences), K slots in order of arrival. ``ranks`` [B, K] is the index
of a token among the real tokens of its sequence, from 0; -1 marks an empty slot or padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retention.cache.budget import CacheBudget
from retention.core.topk import topk_mask

NEVER = 2**40
_COMPARISONS_AT_ONCE = 2**22


def bank_mask(scores: Tensor, ranks: Tensor, counts: Tensor, budget: CacheBudget) -> Tensor:
    """Compute which tokens are held after the arrival of ``counts`` tokens.

    Args:
        scores: [B, K] float, finite; higher is kept, ties go to the earlier token.
        ranks: [B, K] long, see above.
        counts: [B] long, real tokens of each sequence so far.
        budget: size, sinks, window and block.

    Returns:
        [B, K] bool, True = held.
    """
    eviction = counts - (counts - budget.size - 1) % budget.block
    held = ranks >= 0
    in_window = ranks >= (eviction - budget.window).unsqueeze(1)
    protected = held & ((ranks < budget.sinks) | in_window | (counts <= budget.size).unsqueeze(1))
    return topk_mask(scores, protected.sum(1) + budget.bank, held, protected)


def leaving_slot(scores: Tensor, ranks: Tensor, limit: Tensor, sinks: int) -> Tensor:
    """Compute which slot is given up where exactly one has to be, with few operations: ``bank_mask`` of one eviction.

    Args:
        scores: [B, G, K] float, finite.
        ranks: [B, G, K] long, in order of arrival; an empty slot leaves first.
        limit: [B, 1, 1] long, rank of the oldest token in the window.
        sinks: first tokens that are kept, >= 0.

    Returns:
        [B, G] long, the worst slot outside sinks and window; of equal scores the last one.
    """
    protected = (ranks >= limit) | ((ranks >= 0) & (ranks < sinks))
    order = scores.masked_fill(protected, torch.inf).masked_fill(ranks < 0, -torch.inf)
    return order.shape[2] - 1 - order.flip(2).argmin(2)


def eviction_counts(scores: Tensor, ranks: Tensor, budget: CacheBudget) -> Tensor:
    """Compute the moment at which each token is evicted, as the number of tokens that have arrived by then.

    A query that is token number n of its sequence (from 1) sees the earlier tokens whose number here exceeds n.

    Args:
        scores: [B, K] float, finite.
        ranks: [B, K] long, see above; all tokens that were held before, and the new ones.
        budget: size, sinks, window and block.

    Returns:
        [B, K] long; ``NEVER`` for sinks and for tokens that the given ones do not push out. A number beyond the tokens
        given belongs to a token that has lost already and is still in the window.
    """
    eligible = ranks >= budget.sinks
    slots = torch.arange(ranks.shape[1], device=ranks.device)
    batch, width = ranks.shape
    step = max(1, _COMPARISONS_AT_ONCE // max(1, batch * width))
    padded = torch.cat([ranks, ranks.new_full((batch, 1), NEVER)], dim=1)
    losses = []
    for start in range(0, width, step):
        score, slot = scores[:, start : start + step, None], slots[None, start : start + step, None]
        tied = (scores[:, None, :] == score) & (slots < slot)
        better = eligible[:, None, :] & ((scores[:, None, :] > score) | tied)
        # the slot of the token with which the number of better tokens reaches the size of the bank
        beaten_by = (better.cumsum(2, dtype=torch.int32) < budget.bank).sum(2)
        losses.append(padded.gather(1, beaten_by))
    loss = torch.cat(losses, dim=1) if losses else ranks
    if budget.bank == 0:
        loss = torch.zeros_like(ranks)
    outside = torch.maximum(loss, ranks) + budget.window + 1  # both have left the window
    excess = (outside - budget.size - 1).clamp_min(0)
    evicted = budget.size + 1 + (excess + budget.block - 1) // budget.block * budget.block
    return torch.where(eligible & (loss < NEVER), evicted, NEVER)


def visible_mask(evicted: Tensor, ranks: Tensor, counts: Tensor, new: Tensor) -> Tensor:
    """Compute which slots each query of a chunk attends to: the tokens held right after its arrival.

    Args:
        evicted: [B, K] long, from ``eviction_counts``.
        ranks: [B, K] long, the slots: those held before, then the Q of the chunk.
        counts: [B, Q] long, real tokens up to and including each query.
        new: [B, Q] bool, True = real token; padding attends to itself as well, so that its softmax has an entry.

    Returns:
        [B, Q, K] bool, True = attended to.
    """
    number = counts.unsqueeze(2)
    visible = (ranks >= 0).unsqueeze(1) & (ranks.unsqueeze(1) < number) & (evicted.unsqueeze(1) > number)
    length = counts.shape[1]
    diagonal = torch.eye(length, dtype=torch.bool, device=new.device) & ~new.unsqueeze(2)
    visible[:, :, -length:] |= diagonal
    return visible


def write_mask(mask: Tensor, visible: Tensor) -> None:
    """Write ``visible`` [B, G, Q, K] bool into ``mask`` [B, heads, Q, K], boolean or additive.

    Heads of the queries are G or a multiple of it; those of a group are neighbors.
    """
    if mask.shape[1] != visible.shape[1]:
        visible = visible.repeat_interleave(mask.shape[1] // visible.shape[1], dim=1)
    if mask.dtype is torch.bool:
        mask.copy_(visible)
    else:
        mask.zero_().masked_fill_(~visible, torch.finfo(mask.dtype).min)


def finite_scores(scores: Tensor) -> Tensor:
    """Let a score that is no number rank last: comparisons with it would let the cache grow."""
    return torch.nan_to_num(scores, nan=torch.finfo(torch.float32).min)
