"""Collect the batches of an evaluation over all ranks."""

from __future__ import annotations

from typing import cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from retention.errors import TrainingError
from retention.models.head import Columns

REMEDY = "lower optimizer.lr or optimizer.policy_lr, or train with trainer.precision=32-true"


class Evaluation:
    """Rows and FLOPs of the evaluation that is running; can be used for one evaluation after another."""

    def __init__(self) -> None:
        self._parts: list[Columns] = []
        self._flops = [0.0, 0.0]

    def add(self, rows: Columns, *, dense: float, spent: float) -> None:
        """Add one batch.

        Args:
            rows: see ``Head.eval_rows``.
            dense: FLOPs of the batch without token removal.
            spent: FLOPs of the batch with token removal.
        """
        self._parts.append(rows)
        self._flops[0] += spent
        self._flops[1] += dense

    def finish(self, trainer: pl.Trainer, device: torch.device) -> tuple[Columns, float]:
        """Return the rows of all ranks and the FLOPs ratio, and clear both for the next evaluation."""
        rows, flops = merge_rows(_gather(trainer, self._parts)), _total(trainer, device, self._flops)
        self._parts, self._flops = [], [0.0, 0.0]
        return rows, flops[0] / max(flops[1], 1.0)


def check_output(logits: Tensor) -> None:
    """Raise ``TrainingError`` if the output of a head has NaN or +inf values; masked classes may be -inf.

    Both give probabilities that are NaN; which of the two an overflow ends in depends on the processor.
    """
    if not bool((logits < torch.inf).all()):  # false for NaN as well
        raise TrainingError(f"the model's output has values that are NaN or infinite; {REMEDY}")


def _gather(trainer: pl.Trainer, parts: list[Columns]) -> list[Columns]:
    if trainer.world_size == 1:
        return parts
    gathered: list[list[Columns] | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, parts)
    return [part for rank in gathered for part in rank or []]


def _total(trainer: pl.Trainer, device: torch.device, values: list[float]) -> list[float]:
    total = torch.tensor(values, dtype=torch.float64, device=device if device.type != "mps" else "cpu")
    return [float(value) for value in cast(Tensor, trainer.strategy.reduce(total, reduce_op="sum"))]


def merge_rows(parts: list[Columns]) -> Columns:
    """Concatenate the rows of all batches; a repeated row index (of a wrapped distributed sampler) counts once."""
    seen: set[int] = set()
    merged: Columns = {}
    for part in parts:
        for row, index in enumerate(part["index"]):
            if index in seen:
                continue
            seen.add(index)
            for name, values in part.items():
                merged.setdefault(name, []).append(values[row])
    return merged
