"""Token merging, ToMe (Bolya et al., ICLR 2023, arXiv 2210.09461), for text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.engine.gate import Decision, LayerView
from retention.policies.bases.retention_policy import RetentionPolicy

_EQUAL = 1e-4  # cosines that differ by less count as equal


class ToMe(RetentionPolicy):
    """Merge the most similar tokens until the budget is met; nothing is learned.

    Unprotected tokens are divided alternately into two sets; each token of the first is paired with its most similar
    one of the second, and the most similar pairs become one token: the average of both, weighted by the number of
    tokens that each represents. In later layers log size is added to the attention logits of the merged token as a key
    (proportional attention). Protected tokens never merge. Training: none of its own; gradients pass through the
    averages. Needs no attention maps.

    Source: ToMe (arXiv 2210.09461).

    Differs from the paper: similarity is the cosine of the states, not of the layer's keys; where more than half of the
    unprotected tokens have to go, the matching is repeated; where only protected tokens fit the budget, the last
    unprotected one is dropped; similarities that are equal to four decimals are ordered by position.
    ``prune_at=after_attention`` merges at the paper's location. With ``dropped=forward`` merged tokens return with the
    final state of the token that they were merged into (the paper's unmerging); with ``dropped=cut`` a head that pools
    by ``mean`` weighs a token by its size. The cost of the matching, at most N^2 D multiply-accumulates per round, is
    missing in the FLOPs, which only include costs per token.

    Args:
        rho: target keep ratio, see ``RetentionPolicy``.
        schedule: see ``RetentionPolicy``.
        slope: see ``RetentionPolicy``.
        layers: see ``RetentionPolicy``.
        unmerge: with ``dropped=forward``, give merged tokens the final state of their target; False leaves them the
            state in which they were merged, as earlier versions did.
    """

    supports_spans: ClassVar[bool] = False  # it pairs single tokens

    def __init__(
        self,
        *,
        rho: float,
        schedule: str | Sequence[float] = "linear",
        slope: float = 1.0,
        layers: Sequence[int] | None = None,
        unmerge: bool = True,
    ) -> None:
        super().__init__(rho=rho, schedule=schedule, slope=slope, layers=layers)
        self.unmerge = unmerge

    def score(self, view: LayerView) -> Tensor:
        """Return equal scores: merging compares pairs instead of ranking tokens."""
        return view.valid.float()

    def hard_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Merge tokens until each sample meets its count."""
        indices = torch.arange(view.valid.shape[1], device=view.valid.device).expand_as(view.positions)
        tokens = _MergedTokens(view.hidden_states, view.weights.float(), view.valid, indices)
        floor = view.protected.sum(1)
        surplus = view.valid.sum(1) - torch.maximum(self.counts[gate], floor)
        while bool((surplus > 0).any()):
            before = tokens.alive.sum(1)
            tokens = merge_once(tokens, tokens.alive & ~view.protected, surplus)
            merged = before - tokens.alive.sum(1)
            surplus = surplus - merged
            if not bool((merged > 0).any()):
                break  # a single unprotected token is left, which has no partner
        alive = tokens.alive & (view.protected | (surplus <= 0).unsqueeze(1))
        growth = torch.where(view.valid, tokens.sizes.log() - view.weights.float().log(), 0.0)
        merged_into = tokens.targets if self.unmerge else None
        return Decision(keep_mask=alive, log_gates=growth, hidden_states=tokens.states, merged_into=merged_into)


@dataclass(frozen=True)
class _MergedTokens:
    """Tokens of a batch between rounds of merging.

    Attributes:
        states: [B, N, D].
        sizes: [B, N] float, number of tokens that each represents.
        alive: [B, N] bool, False = padding or merged into another token.
        targets: [B, N] long, index of the token that each is part of now.
    """

    states: Tensor
    sizes: Tensor
    alive: Tensor
    targets: Tensor


def merge_once(tokens: _MergedTokens, free: Tensor, surplus: Tensor) -> _MergedTokens:
    """Merge up to ``surplus`` [B] pairs of ``free`` [B, N] tokens by one bipartite matching."""
    turn = free.long().cumsum(1)
    sources, targets = free & (turn % 2 == 0), free & (turn % 2 == 1)
    normed = F.normalize(tokens.states.detach().float(), dim=-1)
    # Repeated words are equally similar up to rounding, which depends on the batch; the first ones go then.
    similarity = torch.round((normed @ normed.transpose(1, 2)) / _EQUAL) * _EQUAL
    similarity = similarity.masked_fill(~targets.unsqueeze(1), -torch.inf)
    best, partner = similarity.max(2)
    best = best.masked_fill(~sources, -torch.inf)
    order = torch.sort(best, dim=1, descending=True, stable=True).indices
    columns = torch.arange(order.shape[1], device=order.device).unsqueeze(0)
    count = torch.minimum(surplus.clamp_min(0), sources.sum(1))
    merged = torch.zeros_like(free).scatter(1, order, columns < count.unsqueeze(1))
    moved = torch.where(merged, tokens.sizes, 0.0)
    sizes = tokens.sizes.scatter_add(1, partner, moved)
    weighted = tokens.states * tokens.sizes.unsqueeze(-1).to(tokens.states.dtype)
    gained = weighted * merged.unsqueeze(-1)
    sums = weighted.scatter_add(1, partner.unsqueeze(-1).expand_as(gained), gained)
    has_grown = (sizes > tokens.sizes).unsqueeze(-1)
    states = torch.where(has_grown, sums / sizes.clamp_min(1e-6).unsqueeze(-1).to(sums.dtype), tokens.states)
    moves = torch.where(merged, partner, columns.expand_as(partner))
    return _MergedTokens(states, sizes, tokens.alive & ~merged, moves.gather(1, tokens.targets))
