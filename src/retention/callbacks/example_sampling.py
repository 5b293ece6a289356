"""Sample test examples with the depth that each of their tokens reached."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pytorch_lightning import Trainer
from torch import Tensor

_NO_ROW = torch.iinfo(torch.long).max  # larger than every row number
_MISSING = -1
_COLUMNS = ("index", "length", "label", "prediction")


def hash_rows(rows: Tensor) -> Tensor:
    """Hash row numbers below 2^32 to different integers in [0, 2^32), long."""
    mixed = rows
    for factor in (
        0x9E3779B1,
        0x85EBCA77,
    ):  # odd factors keep the hash one-to-one; the low 32 bits are right even if the product overflows
        mixed = (mixed * factor) & 0xFFFFFFFF
        mixed = mixed ^ (mixed >> 15)
    return mixed


@dataclass(frozen=True)
class SampledExample:
    """Sample with the depth of its tokens.

    Attributes:
        index: row number in the split.
        token_ids: ids of the real tokens.
        depth: number of gated layers that each token passed.
        label: class; None for a task without classes.
        prediction: predicted class; None if the module gives none.
    """

    index: int
    token_ids: list[int]
    depth: list[int]
    label: int | None
    prediction: int | None


class ExampleSampler:
    """Sample the same examples of a split in every run, without synchronizing the device.

    Rows are selected by a hash of their number, because adjacent rows often come from one document and test loaders
    order rows by length, so the first rows or batches would not be representative.

    Args:
        size: number of samples, >= 0.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._columns: Tensor | None = None
        self._tokens: Tensor | None = None

    def add_batch(
        self,
        *,
        index: Tensor,
        token_ids: Tensor,
        lengths: Tensor,
        depth: Tensor,
        labels: Tensor | None,
        predictions: Tensor | None,
    ) -> None:
        """Consider the samples of one batch; ``token_ids`` and ``depth`` are [B, N], all others [B]."""
        missing = torch.full_like(index, _MISSING)
        classes = (missing if column is None else column.long() for column in (labels, predictions))
        columns, tokens = torch.stack([index, lengths, *classes], dim=1), torch.stack([token_ids, depth], dim=1)
        if self._columns is not None and self._tokens is not None:
            width = max(tokens.shape[2], self._tokens.shape[2])
            columns = torch.cat([self._columns, columns])
            tokens = torch.cat([_widen(self._tokens, width), _widen(tokens, width)])
        rows = torch.topk(hash_rows(columns[:, 0]), min(self._size, len(columns)), largest=False).indices
        self._columns, self._tokens = columns[rows], tokens[rows]

    def collect(self, trainer: Trainer) -> list[SampledExample]:
        """Return the examples of all ranks in row order, at most ``size``; every rank must call it."""
        columns, tokens = self._padded_to_size(trainer)
        # all_gather adds a dimension for the ranks, except in a single process
        columns = trainer.strategy.all_gather(columns).flatten(0, -2)
        tokens = trainer.strategy.all_gather(tokens).flatten(0, -3)
        examples: dict[int, SampledExample] = {}  # a distributed sampler may repeat rows to give ranks equal numbers
        for row, (token_ids, depth) in zip(columns.tolist(), tokens.tolist(), strict=True):
            index, length, label, prediction = row
            if index != _NO_ROW:
                classes = _class_or_none(label), _class_or_none(prediction)
                examples[index] = SampledExample(index, token_ids[:length], depth[:length], *classes)
        rows = torch.tensor(list(examples), dtype=torch.long)
        selected = rows[hash_rows(rows).argsort()][: self._size]
        return [examples[index] for index in sorted(selected.tolist())]

    def _padded_to_size(self, trainer: Trainer) -> tuple[Tensor, Tensor]:
        """Pad the sampled rows to one shape on every rank, as all_gather requires."""
        device = trainer.strategy.root_device
        columns = torch.full((self._size, len(_COLUMNS)), _NO_ROW, dtype=torch.long, device=device)
        local_width = 0 if self._tokens is None else self._tokens.shape[2]
        width = int(trainer.strategy.reduce(torch.tensor(local_width, device=device), reduce_op="max"))
        tokens = torch.full((self._size, 2, width), _MISSING, dtype=torch.long, device=device)
        if self._columns is not None and self._tokens is not None:
            columns[: len(self._columns)] = self._columns
            tokens[: len(self._tokens), :, :local_width] = self._tokens
        return columns, tokens


def _widen(tokens: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(tokens, (0, width - tokens.shape[2]), value=_MISSING)


def _class_or_none(value: int) -> int | None:
    return None if value < 0 else value
