"""What the batches of an evaluation add up to, over all ranks."""

from __future__ import annotations

from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

Rows = dict[str, list[Any]]


class Evaluation:
    """Collects rows and FLOPs of one evaluation after another."""

    def __init__(self) -> None:
        self._parts: list[Rows] = []
        self._flops = [0.0, 0.0]

    def add(self, rows: Rows, *, dense: float, spent: float) -> None:
        """One batch: its rows, and its FLOPs without and with removal."""
        self._parts.append(rows)
        self._flops[0] += spent
        self._flops[1] += dense

    def finish(self, trainer: pl.Trainer, device: torch.device) -> tuple[Rows, float]:
        """All rows of all ranks, and the share of FLOPs spent; ready for the next evaluation."""
        rows, flops = merge_rows(_gather(trainer, self._parts)), _total(trainer, device, self._flops)
        self._parts, self._flops = [], [0.0, 0.0]
        return rows, flops[0] / max(flops[1], 1.0)


def _gather(trainer: pl.Trainer, parts: list[Rows]) -> list[Rows]:
    if trainer.world_size == 1:
        return parts
    everyone: list[list[Rows] | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everyone, parts)
    return [part for rank in everyone for part in rank or []]


def _total(trainer: pl.Trainer, device: torch.device, values: list[float]) -> list[float]:
    total = torch.tensor(values, dtype=torch.float64, device=device if device.type != "mps" else "cpu")
    return [float(value) for value in cast(Tensor, trainer.strategy.reduce(total, reduce_op="sum"))]


def merge_rows(parts: list[Rows]) -> Rows:
    """Concatenate the rows of all batches; a row index met twice (a wrapped distributed sampler) counts once."""
    seen: set[int] = set()
    merged: Rows = {}
    for part in parts:
        for row, index in enumerate(part["index"]):
            if index in seen:
                continue
            seen.add(index)
            for name, values in part.items():
                merged.setdefault(name, []).append(values[row])
    return merged
