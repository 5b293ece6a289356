"""Provide the tensors that one layer of the cache holds."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """Tokens that a layer holds, in order of arrival; rows with fewer tokens end with empty slots.

    Attributes:
        keys: [B, H, N, D], after rotary embedding, for H key-value heads.
        values: [B, H, N, D].
        scores: [B, N] float32; fixed on arrival, or renewed after each pass by a ``RescoringPolicy``.
        ranks: [B, N] long, index among the real tokens of the sequence; -1 = empty.
        positions: [B, N] long, column of the token in the input, counting padding; -1 = empty.
        statistics: [B, N, S] float32, what a ``RescoringPolicy`` has observed of each token; S = 0 for other policies.
    """

    keys: Tensor
    values: Tensor
    scores: Tensor
    ranks: Tensor
    positions: Tensor
    statistics: Tensor

    def append(self, other: Slots) -> Slots:
        """Return these slots followed by ``other``."""
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return Slots(*(torch.cat(pair, dim=2 if pair[0].ndim == 4 else 1) for pair in pairs))

    def compact(self, keep: Tensor, count: int) -> Slots:
        """Return new, smaller tensors with the tokens of ``keep`` [B, N] bool, at most ``count`` in a row."""
        kept, order = torch.sort(keep.int(), dim=1, descending=True, stable=True)
        order, empty = order[:, :count], kept[:, :count] == 0
        index = order[:, None, :, None].expand(-1, self.keys.shape[1], -1, self.keys.shape[3])
        width = self.statistics.shape[2]
        return Slots(
            keys=self.keys.gather(2, index),
            values=self.values.gather(2, index[..., :1].expand(-1, -1, -1, self.values.shape[3])),
            scores=self.scores.gather(1, order),
            ranks=self.ranks.gather(1, order).masked_fill(empty, -1),
            positions=self.positions.gather(1, order).masked_fill(empty, -1),
            statistics=self.statistics.gather(1, order.unsqueeze(2).expand(-1, -1, width)),
        )

    def select(self, rows: Tensor) -> Slots:
        """Return the sequences ``rows`` [B'] long, in that order."""
        return Slots(*(getattr(self, field.name).index_select(0, rows) for field in fields(self)))
