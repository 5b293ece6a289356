"""Describe the tokens of one forward pass, as all layers of the cache see them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """New tokens of one forward pass: Q columns for each of B sequences.

    Attributes:
        start: number of columns that came before.
        valid: [B, Q] bool, True = real token, False = padding.
        counts: [B, Q] long, real tokens of the sequence up to and including each column.
        totals: real tokens of each sequence after this pass, as Python numbers.
    """

    start: int
    valid: Tensor
    counts: Tensor
    totals: tuple[int, ...]

    @classmethod
    def build(cls, start: int, valid: Tensor | None, length: int, before: list[int], device: torch.device) -> Step:
        """Build the step from the mask of its columns.

        Args:
            start: number of columns that came before.
            valid: [B, Q] bool; None = no padding.
            length: Q.
            before: real tokens of each sequence before this pass.
            device: device of the tensors.
        """
        if valid is None:
            valid = torch.ones((len(before), length), dtype=torch.bool, device=device)
            new = [length] * len(before)
        else:
            new = valid.sum(1).tolist()
        counts = valid.cumsum(1) + torch.tensor(before, device=device).unsqueeze(1)
        totals = tuple(old + added for old, added in zip(before, new, strict=True))
        return cls(start, valid, counts, totals)

    @cached_property
    def ranks(self) -> Tensor:
        """Return the index of each token among the real tokens of its sequence, [B, Q] long; -1 for padding."""
        return torch.where(self.valid, self.counts - 1, -1)

    @cached_property
    def positions(self) -> Tensor:
        """Return the column of each token, [B, Q] long; -1 for padding."""
        columns = torch.arange(self.valid.shape[1], device=self.valid.device) + self.start
        return torch.where(self.valid, columns, -1)

    @property
    def is_first_without_padding(self) -> bool:
        """Return True if nothing came before and no column is padding."""
        return self.start == 0 and all(total == self.valid.shape[1] for total in self.totals)
