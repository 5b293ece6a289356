"""Provide the tensors that one layer of the cache holds."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """Tokens that a layer holds, in order of arrival; rows with fewer tokens end with empty slots.

    Each of G groups of heads holds its own N tokens: G = 1 if all H key-value heads hold the same ones, else G = H.

    Attributes:
        keys: [B, H, N, D], after rotary embedding, for H key-value heads.
        values: [B, H, N, D].
        scores: [B, G, N] float32; fixed on arrival, or renewed after each pass by a ``RescoringPolicy``.
        ranks: [B, G, N] long, index among the real tokens of the sequence; -1 = empty.
        positions: [B, G, N] long, column of the token in the input, counting padding; -1 = empty.
        statistics: [B, G, N, S] float32, what a ``RescoringPolicy`` has observed of each token; S = 0 for others.
    """

    keys: Tensor
    values: Tensor
    scores: Tensor
    ranks: Tensor
    positions: Tensor
    statistics: Tensor

    def append(self, other: Slots) -> Slots:
        """Return these slots followed by ``other``."""
        return Slots(
            *(torch.cat([getattr(self, field.name), getattr(other, field.name)], dim=2) for field in fields(self))
        )

    def compact(self, keep: Tensor, count: int) -> Slots:
        """Return new, smaller tensors with the tokens of ``keep`` [B, G, N] bool, at most ``count`` in a row."""
        kept, order = torch.sort(keep.int(), dim=2, descending=True, stable=True)
        order, empty = order[..., :count], kept[..., :count] == 0
        chosen = self.gather(order)
        return Slots(
            chosen.keys,
            chosen.values,
            chosen.scores,
            chosen.ranks.masked_fill(empty, -1),
            chosen.positions.masked_fill(empty, -1),
            chosen.statistics,
        )

    def without(self, slot: Tensor) -> Slots:
        """Return new tensors without the slot [B, G] long of each row."""
        index = torch.arange(self.ranks.shape[2] - 1, device=slot.device)
        return self.gather(index + (index >= slot.unsqueeze(2)))

    def gather(self, order: Tensor) -> Slots:
        """Return new tensors with the slots ``order`` [B, G, N'] long."""

        def chosen(values: Tensor) -> Tensor:  # [B, G or H, N, any]
            return values.gather(2, order.unsqueeze(3).expand(-1, values.shape[1], -1, values.shape[3]))

        return Slots(
            keys=chosen(self.keys),
            values=chosen(self.values),
            scores=self.scores.gather(2, order),
            ranks=self.ranks.gather(2, order),
            positions=self.positions.gather(2, order),
            statistics=chosen(self.statistics),
        )

    def select(self, rows: Tensor) -> Slots:
        """Return the sequences ``rows`` [B'] long, in that order."""
        return Slots(*(getattr(self, field.name).index_select(0, rows) for field in fields(self)))
