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
        scores: [B, N] float32, fixed on arrival.
        ranks: [B, N] long, index among the real tokens of the sequence; -1 = empty.
        positions: [B, N] long, column of the token in the input, counting padding; -1 = empty.
    """

    keys: Tensor
    values: Tensor
    scores: Tensor
    ranks: Tensor
    positions: Tensor

    def append(self, other: Slots) -> Slots:
        """Return these slots followed by ``other``."""
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return Slots(*(torch.cat(pair, dim=2 if pair[0].ndim == 4 else 1) for pair in pairs))

    def compact(self, keep: Tensor, width: int) -> Slots:
        """Return new, smaller tensors with the tokens of ``keep`` [B, N] bool, at most ``width`` in a row."""
        kept, order = torch.sort(keep.int(), dim=1, descending=True, stable=True)
        order, empty = order[:, :width], kept[:, :width] == 0
        index = order[:, None, :, None].expand(-1, self.keys.shape[1], -1, self.keys.shape[3])
        return Slots(
            keys=self.keys.gather(2, index),
            values=self.values.gather(2, index[..., :1].expand(-1, -1, -1, self.values.shape[3])),
            scores=self.scores.gather(1, order),
            ranks=self.ranks.gather(1, order).masked_fill(empty, -1),
            positions=self.positions.gather(1, order).masked_fill(empty, -1),
        )

    def select(self, rows: Tensor) -> Slots:
        """Return the sequences ``rows`` [B'] long, in that order."""
        return Slots(*(getattr(self, field.name).index_select(0, rows) for field in fields(self)))
