"""Add up numbers over batches and ranks without synchronizing the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor


class RunningTotals:
    """Named vectors of running sums that are read once per epoch.

    Tensors are summed on their device and Python numbers on the host, so adding never waits for the device; ``read``
    combines both. The widths are declared in advance so that a rank without batches takes part in the reduction.

    Args:
        widths: name -> number of entries.
    """

    def __init__(self, **widths: int) -> None:
        self._slices: dict[str, slice] = {}
        size = 0
        for name, width in widths.items():
            self._slices[name] = slice(size, size + width)
            size += width
        self._host = [0.0] * size
        self._device: Tensor | None = None

    def add(self, **values: Tensor | float | Sequence[float]) -> None:
        """Add to the named sums; a tensor is [width] or scalar, a number is added to every entry."""
        for name, value in values.items():
            entries = self._slices[name]
            if isinstance(value, Tensor):
                self._add_tensor(entries, value.detach())
            else:
                width = entries.stop - entries.start
                numbers = [value] * width if isinstance(value, int | float) else value
                for index, number in enumerate(numbers, start=entries.start):
                    self._host[index] += number

    def read(self, trainer: Trainer) -> dict[str, list[float]]:
        """Return the sums over all ranks; every rank must call it."""
        device = trainer.strategy.root_device
        sums = torch.tensor(self._host, dtype=_sum_dtype(device), device=device)
        if self._device is not None:
            sums = sums + self._device.to(device)
        flat = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        return {name: flat[entries] for name, entries in self._slices.items()}

    def _add_tensor(self, entries: slice, value: Tensor) -> None:
        if self._device is None:
            self._device = torch.zeros(len(self._host), dtype=_sum_dtype(value.device), device=value.device)
        self._device[entries] += value


def _sum_dtype(device: torch.device) -> torch.dtype:
    # token counts of an epoch exceed the 24 bits of float32; the MPS backend has no float64
    return torch.float32 if device.type == "mps" else torch.float64


def max_over_ranks(trainer: Trainer, value: float) -> float:
    """Return the maximum of ``value`` over all ranks."""
    device = trainer.strategy.root_device
    tensor = torch.tensor(value, dtype=_sum_dtype(device), device=device)
    return float(trainer.strategy.reduce(tensor, reduce_op="max"))


def log_epoch(module: LightningModule, values: Mapping[str, float]) -> None:
    """Log numbers that are already the same on every rank, from an epoch-end hook."""
    # sync_dist averages equal numbers, which changes nothing, and avoids a warning of Lightning
    module.log_dict(dict(values), on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
