"""Test samples and how far their tokens came."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pytorch_lightning import Trainer
from torch import Tensor

_NO_ROW = torch.iinfo(torch.long).max  # sorts behind every real row
_UNKNOWN = -1
_FACTS = ("index", "length", "label", "prediction")


def scattered(rows: Tensor) -> Tensor:
    """A number in [0, 2^32) for each row number, long, different for different rows below 2^32: an integer hash."""
    mixed = rows
    for factor in (0x9E3779B1, 0x85EBCA77):  # odd: nothing is lost; the product may wrap, its low bits are right
        mixed = (mixed * factor) & 0xFFFFFFFF
        mixed = mixed ^ (mixed >> 15)
    return mixed


@dataclass(frozen=True)
class Example:
    """One sample and the fate of its tokens.

    Attributes:
        index: row number in the split.
        token_ids: ids of the real tokens.
        depth: gated layers passed, one number per token.
        label: class, None where the task has none.
        prediction: predicted class, None where the module gives none.
    """

    index: int
    token_ids: list[int]
    depth: list[int]
    label: int | None
    prediction: int | None


class ExampleBank:
    """Collects samples from all over the split, always the same, without making the host wait for the device.

    A hash of the row number decides: neighbouring rows often come from one document, and test loaders order rows by
    length, so neither the first rows nor the first batches would show what the split is like.

    Args:
        size: number of samples, >= 0.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._facts: Tensor | None = None
        self._text: Tensor | None = None

    def offer(
        self,
        *,
        index: Tensor,
        token_ids: Tensor,
        lengths: Tensor,
        depth: Tensor,
        labels: Tensor | None,
        predictions: Tensor | None,
    ) -> None:
        """Look at one batch: ``token_ids`` and ``depth`` are [B, N], all others [B]."""
        unknown = torch.full_like(index, _UNKNOWN)
        columns = [index, lengths, *(unknown if column is None else column.long() for column in (labels, predictions))]
        facts, text = torch.stack(columns, dim=1), torch.stack([token_ids, depth], dim=1)
        if self._facts is not None and self._text is not None:
            width = max(text.shape[2], self._text.shape[2])
            facts = torch.cat([self._facts, facts])
            text = torch.cat([_widen(self._text, width), _widen(text, width)])
        rows = torch.topk(scattered(facts[:, 0]), min(self._size, len(facts)), largest=False).indices
        self._facts, self._text = facts[rows], text[rows]

    def collect(self, trainer: Trainer) -> list[Example]:
        """The samples over all ranks in row order, at most ``size``; every rank must call it."""
        facts, text = self._of_full_size(trainer)
        # gathering puts the ranks in front, or nothing where there is one process only
        facts = trainer.strategy.all_gather(facts).flatten(0, -2)
        text = trainer.strategy.all_gather(text).flatten(0, -3)
        found: dict[int, Example] = {}  # a distributed sampler may repeat rows to even out the ranks
        for row, (tokens, depth) in zip(facts.tolist(), text.tolist(), strict=True):
            index, length, label, prediction = row
            if index != _NO_ROW:
                found[index] = Example(index, tokens[:length], depth[:length], _known(label), _known(prediction))
        rows = torch.tensor(list(found), dtype=torch.long)
        chosen = rows[scattered(rows).argsort()][: self._size]
        return [found[index] for index in sorted(chosen.tolist())]

    def _of_full_size(self, trainer: Trainer) -> tuple[Tensor, Tensor]:
        """The bank padded to one shape on every rank, as gathering asks."""
        device = trainer.strategy.root_device
        facts = torch.full((self._size, len(_FACTS)), _NO_ROW, dtype=torch.long, device=device)
        own = 0 if self._text is None else self._text.shape[2]
        width = int(trainer.strategy.reduce(torch.tensor(own, device=device), reduce_op="max"))
        text = torch.full((self._size, 2, width), _UNKNOWN, dtype=torch.long, device=device)
        if self._facts is not None and self._text is not None:
            facts[: len(self._facts)] = self._facts
            text[: len(self._text), :, :own] = self._text
        return facts, text


def _widen(text: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(text, (0, width - text.shape[2]), value=_UNKNOWN)


def _known(value: int) -> int | None:
    return None if value < 0 else value
