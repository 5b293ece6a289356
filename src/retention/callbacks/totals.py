"""Running sums that a callback reads once per epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor


class Totals:
    """Named vectors of running sums that never make the host wait for the device.

    Tensors are added up on their own device, Python numbers on the host; the two meet in ``read``. The widths are
    declared up front so that a rank that saw no batch still takes part in the reduction.

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
        """Add to the named sums; a tensor is [width] or scalar, a number counts for every entry."""
        for name, value in values.items():
            place = self._slices[name]
            if isinstance(value, Tensor):
                self._add_tensor(place, value.detach())
            else:
                width = place.stop - place.start
                entries = [value] * width if isinstance(value, int | float) else value
                for offset, entry in enumerate(entries):
                    self._host[place.start + offset] += entry

    def read(self, trainer: Trainer) -> dict[str, list[float]]:
        """The sums over all ranks, as Python floats; every rank must call it."""
        device = trainer.strategy.root_device
        both = torch.tensor(self._host, dtype=_sum_dtype(device), device=device)
        if self._device is not None:
            both = both + self._device.to(device)
        flat = trainer.strategy.reduce(both, reduce_op="sum").tolist()
        return {name: flat[place] for name, place in self._slices.items()}

    def _add_tensor(self, place: slice, value: Tensor) -> None:
        if self._device is None:
            self._device = torch.zeros(len(self._host), dtype=_sum_dtype(value.device), device=value.device)
        self._device[place] += value


def _sum_dtype(device: torch.device) -> torch.dtype:
    # token counts outgrow the 24 bits of float32 within an epoch; Apple's GPU backend has no float64
    return torch.float32 if device.type == "mps" else torch.float64


def largest(trainer: Trainer, value: float) -> float:
    """The maximum of ``value`` over all ranks."""
    device = trainer.strategy.root_device
    tensor = torch.tensor(value, dtype=_sum_dtype(device), device=device)
    return float(trainer.strategy.reduce(tensor, reduce_op="max"))


def log_epoch(module: LightningModule, values: Mapping[str, float]) -> None:
    """Log numbers that are already the same on every rank, from an epoch-end hook."""
    # sync_dist averages equal numbers, which changes nothing, and keeps Lightning from warning about it
    module.log_dict(dict(values), on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
