"""Provide buffers of constant shape for the tokens of all layers, overwritten in place while single tokens are decoded.

No shape and no Python number changes from token to token, so a compiled decoder is not compiled again. Which slot is
overwritten depends on the scores of earlier tokens alone, since a new token is in the window: it is chosen once per
pass, for all layers together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from retention.cache.budget import CacheBudget
from retention.cache.eviction import finite_scores, write_mask
from retention.cache.policies.base import Arrivals, TokenScorer
from retention.cache.slots import Slots


@dataclass
class FixedSlots:
    """M slots for each of L layers and G groups of heads; the order of the slots has no meaning.

    Attributes:
        budget: size M, sinks and window.
        keys: per layer [B, H, M, D], after rotary embedding, for H key-value heads.
        values: per layer [B, H, M, D].
        states: what the policy stored, [L, B, ...]; None if it stores nothing.
        scores: [L, B, G, M] float32.
        ranks: [L, B, G, M] long, index among the real tokens of the sequence; -1 = free slot.
        positions: [L, B, G, M] long, column of the token in the input, counting padding; -1 = free slot.
        counts: [B] long, real tokens of each sequence, the one being decoded included.
        seen: scalar long, columns before the one being decoded.
        slot: [L, B, G] long, where the token that is being decoded is written.
        mask: [B, 1, 1, M], the mask of the attention: boolean, True = visible, or additive (eager).
        newest: [B, 1] long, rank of the token that is being decoded.
        valid: [B, 1] bool, all True: decoded tokens are real.
        arrivals: the token that is being decoded, in the layers that have run.
    """

    budget: CacheBudget
    keys: list[Tensor]
    values: list[Tensor]
    states: Tensor | None
    scores: Tensor
    ranks: Tensor
    positions: Tensor
    counts: Tensor
    seen: Tensor
    slot: Tensor
    mask: Tensor
    newest: Tensor
    valid: Tensor
    arrivals: list[Arrivals] = field(default_factory=list)

    @classmethod
    def build(
        cls,
        layers: Sequence[Slots],
        states: Sequence[Tensor | None],
        counts: Sequence[int],
        seen: int,
        budget: CacheBudget,
        *,
        additive: bool,
    ) -> FixedSlots:
        """Copy the tokens of all layers into new buffers.

        Args:
            layers: the tokens of each layer, at most M.
            states: what the policy stored for each layer.
            counts: real tokens of each sequence so far.
            seen: columns so far.
            budget: size, sinks and window.
            additive: the attention adds its mask to the logits (eager); otherwise it is boolean.
        """
        device, dtype = layers[0].keys.device, layers[0].keys.dtype
        ranks = torch.stack([_padded(layer.ranks, budget.size, -1) for layer in layers])
        batch, stored = len(counts), [state for state in states if state is not None]
        return cls(
            budget=budget,
            keys=[_padded(layer.keys, budget.size) for layer in layers],
            values=[_padded(layer.values, budget.size) for layer in layers],
            states=torch.stack(stored) if stored else None,
            scores=torch.stack([_padded(layer.scores, budget.size) for layer in layers]),
            ranks=ranks,
            positions=torch.stack([_padded(layer.positions, budget.size, -1) for layer in layers]),
            counts=torch.tensor(counts, device=device),
            seen=torch.tensor(seen, device=device),
            slot=ranks.new_zeros(ranks.shape[:3]),
            mask=torch.zeros((batch, 1, 1, budget.size), dtype=dtype if additive else torch.bool, device=device),
            newest=torch.zeros((batch, 1), dtype=torch.long, device=device),
            valid=torch.ones((batch, 1), dtype=torch.bool, device=device),
        )

    def overwrite(self, other: FixedSlots) -> bool:
        """Copy the tokens of ``other`` into these buffers, so that their addresses stay; return False if shapes differ.

        Args:
            other: of the same decoder and budget.
        """
        pairs = list(zip(self._tensors(), other._tensors(), strict=True))
        if any(
            (ours is None) != (theirs is None)
            or (ours is not None and theirs is not None and (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype))
            for ours, theirs in pairs
        ):
            return False
        for ours, theirs in pairs:
            if ours is not None and theirs is not None:
                ours.copy_(theirs)
        return True

    def keep_addresses(self) -> None:
        """Tell the compiler that the addresses of the buffers do not change, which CUDA graphs need."""
        for tensor in self._tensors():
            if tensor is not None:
                torch._dynamo.mark_static_address(tensor)

    def start_token(self) -> None:
        """Choose the slot of the next token in every layer and update counts, ranks and mask.

        A free slot is taken as long as there is one; then the worst score outside sinks and window leaves, of equal
        scores the later token.
        """
        self.arrivals.clear()
        self.newest.copy_(self.counts.unsqueeze(1))
        self.counts.add_(1)
        limit = (self.counts - self.budget.window).view(-1, 1, 1)
        eligible = (self.ranks >= self.budget.sinks) & (self.ranks < limit)
        candidates = self.scores.masked_fill(~eligible, torch.inf)
        worst = eligible & (candidates == candidates.amin(3, keepdim=True))
        leaving = self.ranks.masked_fill(~worst, -1).argmax(3)
        free = self.newest.clamp_max(self.budget.size - 1)
        self.slot.copy_(torch.where(self.counts.unsqueeze(1) > self.budget.size, leaving, free))
        index = self.slot.unsqueeze(3)
        self.ranks.scatter_(3, index, self.newest.unsqueeze(2).expand_as(index))
        self.positions.scatter_(3, index, self.seen.expand_as(index))
        number = torch.arange(self.budget.size, device=self.mask.device)
        write_mask(self.mask, number < self.counts.view(-1, 1, 1, 1))

    def write(self, arrivals: Arrivals) -> None:
        """Write the token that is being decoded into its slot of one layer; ``finish_token`` scores it."""
        layer_idx, keys, values = arrivals.layer_idx, arrivals.keys, arrivals.values
        index = self.slot[layer_idx, :, :, None, None]
        self.keys[layer_idx].scatter_(2, index.expand_as(keys), keys)
        self.values[layer_idx].scatter_(2, index.expand_as(values), values)
        self.arrivals.append(arrivals)

    def finish_token(self, scorer: TokenScorer) -> None:
        """Score the token after the last layer: within its own pass it is in the window, and needs no score."""
        scores, states = scorer(self.arrivals, self.states)
        self.arrivals.clear()
        index = self.slot.unsqueeze(3)
        self.scores.scatter_(3, index, finite_scores(scores.detach().float()).expand_as(index))
        if self.states is not None and states is not None:
            self.states.copy_(states)
        self.seen.add_(1)

    def select(self, rows: Tensor) -> FixedSlots:
        """Return the sequences ``rows`` [B'] long, in that order; in these buffers if their number is the same."""
        rows = rows.to(self.counts.device)

        def selected(values: Tensor, dim: int = 0) -> Tensor:
            return values.index_select(dim, rows)

        chosen = FixedSlots(
            self.budget,
            [selected(keys) for keys in self.keys],
            [selected(values) for values in self.values],
            None if self.states is None else selected(self.states, 1),
            selected(self.scores, 1),
            selected(self.ranks, 1),
            selected(self.positions, 1),
            selected(self.counts),
            self.seen,
            selected(self.slot, 1),
            selected(self.mask),
            selected(self.newest),
            selected(self.valid),
        )
        return self if self.overwrite(chosen) else chosen

    def slots(self, layer_idx: int) -> Slots:
        """Return a copy of the tokens of one layer in order of arrival, without slots that are free in all rows."""
        ranks = self.ranks[layer_idx]
        order = ranks.masked_fill(ranks < 0, torch.iinfo(ranks.dtype).max).argsort(dim=2)
        held = min(int(self.counts.max()), self.budget.size)
        layer = Slots(
            self.keys[layer_idx],
            self.values[layer_idx],
            self.scores[layer_idx],
            ranks,
            self.positions[layer_idx],
            self.scores.new_zeros((*ranks.shape, 0)),
        )
        return layer.gather(order[..., :held])

    def _tensors(self) -> list[Tensor | None]:
        tokens = [self.states, self.scores, self.ranks, self.positions, self.slot, self.mask]
        return [*self.keys, *self.values, *tokens, self.counts, self.seen, self.newest, self.valid]


def _padded(values: Tensor, size: int, fill: int = 0) -> Tensor:
    """Return a copy of [B, heads, N] or [B, heads, N, D] with ``size`` slots."""
    shape = (*values.shape[:2], size, *values.shape[3:])
    padded = values.new_full(shape, fill)
    padded[:, :, : values.shape[2]] = values
    return padded
