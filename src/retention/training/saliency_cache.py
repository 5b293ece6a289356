"""Keep the teacher's saliency of rows that were seen, in memory and in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from retention.training.cache_file import load_cached, save_tensors
from retention.training.saliency import Saliency

Row = dict[int, Tensor]  # layer_idx -> [T] float, of the real tokens


class SaliencyCache:
    """Saliency of each row and layer. It is one number per token, so it takes little memory.

    Args:
        file: keeps the cache between runs; None = it lasts as long as this object.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._rows = self._load()
        self._unsaved = False

    def get(self, index: Sequence[int], mask: Tensor, layers: Sequence[int]) -> Saliency | None:
        """Return layer_idx -> saliency [B, T], 0 on padding; None if a row or layer is not there.

        Args:
            index: numbers of the rows.
            mask: attention mask of the batch [B, T]; rows are padded on the right.
            layers: 0-based layer indices.
        """
        rows = [self._rows.get(row, {}) for row in index]
        lengths = mask.sum(1).tolist()
        complete = all(
            layer in row and len(row[layer]) == length
            for row, length in zip(rows, lengths, strict=True)
            for layer in layers
        )
        if not complete:
            return None
        result = {layer: torch.zeros(mask.shape) for layer in layers}
        for layer, values in result.items():
            for position, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                values[position, :length] = row[layer]
        return {layer: values.to(mask.device) for layer, values in result.items()}

    def add(self, index: Sequence[int], mask: Tensor, saliency: Saliency) -> None:
        """Keep the saliency of a batch, see ``get``."""
        lengths = mask.sum(1).tolist()
        for layer, values in saliency.items():
            for row, each, length in zip(index, values.float().cpu(), lengths, strict=True):
                self._rows.setdefault(row, {})[layer] = each[:length].clone()
        self._unsaved = True

    def save(self) -> None:
        """Add new rows to the file, beside those of other processes."""
        if self.file is None or not self._unsaved:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.file}.lock"):
            rows = self._load()
            for index, row in self._rows.items():
                rows[index] = {**rows.get(index, {}), **row}
            save_tensors(self.file, _flat(rows))
        self._unsaved = False

    def _load(self) -> dict[int, Row]:
        return load_cached(self.file, "saliency values of the teacher", _rows) or {}


def _flat(rows: dict[int, Row]) -> dict[str, Tensor]:
    """Return all rows as one vector, with row, layer and length of each part."""
    parts = [(index, layer, values) for index, row in rows.items() for layer, values in row.items()]
    return {
        "index": torch.tensor([index for index, _, _ in parts], dtype=torch.long),
        "layer": torch.tensor([layer for _, layer, _ in parts], dtype=torch.long),
        "length": torch.tensor([len(values) for _, _, values in parts], dtype=torch.long),
        "values": torch.cat([values for _, _, values in parts]) if parts else torch.zeros(0),
    }


def _rows(content: dict[str, Tensor]) -> dict[int, Row]:
    rows: dict[int, Row] = {}
    parts = torch.split(content["values"], content["length"].tolist())
    for index, layer, values in zip(content["index"].tolist(), content["layer"].tolist(), parts, strict=True):
        rows.setdefault(index, {})[layer] = values.clone()
    return rows
