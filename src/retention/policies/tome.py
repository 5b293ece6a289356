"""Token merging, ToMe (Bolya et al., ICLR 2023, arXiv 2210.09461), for text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.engine.gate import Decision, LayerView
from retention.policies.bases.retention_policy import RetentionPolicy


class ToMe(RetentionPolicy):
    """Merges the tokens that are most alike until the budget is met; nothing is learned.

    Free tokens are dealt in turn to two sets; each token of the first is paired with its most similar one of the
    second, and the most similar pairs become one token: the average of both, weighed by how many tokens each stands
    for. That number enters later layers as log size on the attention logits of the token as a key (proportional
    attention). Protected tokens never merge.

    Training needs: none of its own; gradients pass through the averages.

    Differs from the paper: similarity is the cosine of the states, not of the layer's keys; where more than half of
    the free tokens have to go, the matching is repeated; where only protected tokens fit the budget, the last free one
    is dropped; a head that pools by ``mean`` weighs a token by its size. ``prune_at=after_attention`` merges where the
    paper does. The matching's own cost, at most N^2 D multiply-accumulates a round, is not in the FLOPs ledger, which
    counts costs per token.

    Args:
        rho, schedule, slope, layers, name: see ``RetentionPolicy``.
    """

    groups: ClassVar[bool] = False  # it pairs single tokens

    def score(self, view: LayerView) -> Tensor:
        """No ranking: merging decides pair by pair."""
        return view.valid.float()

    def remove(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        state = _Merging(view.hidden_states, view.weights.float(), view.valid)
        floor = view.protected.sum(1)
        surplus = view.valid.sum(1) - torch.maximum(self.counts[gate], floor)
        while bool((surplus > 0).any()):
            before = state.alive.sum(1)
            state = merge_once(state, state.alive & ~view.protected, surplus)
            merged = before - state.alive.sum(1)
            surplus = surplus - merged
            if not bool((merged > 0).any()):
                break  # one free token is left that has nothing to merge with
        alive = state.alive & (view.protected | (surplus <= 0).unsqueeze(1))
        growth = torch.where(view.valid, state.sizes.log() - view.weights.float().log(), 0.0)
        return Decision(keep_mask=alive, log_gates=growth, hidden_states=state.states)


@dataclass(frozen=True)
class _Merging:
    """Tokens while they merge.

    Attributes:
        states: [B, N, D].
        sizes: [B, N] float, tokens that each stands for.
        alive: [B, N] bool, False = padding or merged into another.
    """

    states: Tensor
    sizes: Tensor
    alive: Tensor


def merge_once(tokens: _Merging, free: Tensor, wanted: Tensor) -> _Merging:
    """One bipartite matching: up to ``wanted`` [B] pairs of ``free`` [B, N] tokens become one token each."""
    turn = free.long().cumsum(1)
    sources, targets = free & (turn % 2 == 0), free & (turn % 2 == 1)
    normed = F.normalize(tokens.states.detach().float(), dim=-1)
    alike = (normed @ normed.transpose(1, 2)).masked_fill(~targets.unsqueeze(1), -torch.inf)
    closest, partner = alike.max(2)
    closest = closest.masked_fill(~sources, -torch.inf)
    order = torch.sort(closest, dim=1, descending=True, stable=True).indices
    rows = torch.arange(order.shape[1], device=order.device).unsqueeze(0)
    count = torch.minimum(wanted.clamp_min(0), sources.sum(1))
    leaving = torch.zeros_like(free).scatter(1, order, rows < count.unsqueeze(1))
    moved = torch.where(leaving, tokens.sizes, 0.0)
    sizes = tokens.sizes.scatter_add(1, partner, moved)
    weighted = tokens.states * tokens.sizes.unsqueeze(-1).to(tokens.states.dtype)
    gained = weighted * leaving.unsqueeze(-1)
    sums = weighted.scatter_add(1, partner.unsqueeze(-1).expand_as(gained), gained)
    is_modified = (sizes > tokens.sizes).unsqueeze(-1)
    states = torch.where(is_modified, sums / sizes.clamp_min(1e-6).unsqueeze(-1).to(sums.dtype), tokens.states)
    return _Merging(states, sizes, tokens.alive & ~leaving)
