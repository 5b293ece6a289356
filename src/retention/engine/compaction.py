"""Gather the kept tokens of a batch and restore the full sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def compact_indices(keep_mask: Tensor, minimum: int = 0) -> tuple[Tensor, Tensor | None]:
    """Compute the indices that gather the kept tokens of every sample to the front, in order.

    Args:
        keep_mask: [B, N] bool, True = kept.
        minimum: smallest M, at most N.

    Returns:
        A pair: indices [B, M] long with M the largest count, kept tokens first and ascending, where the unused slots of
        a sample with fewer kept tokens hold distinct dropped positions; and slots [B, M] bool, True = kept token, or
        None if all samples keep M.
    """
    counts = keep_mask.sum(1)
    if torch.compiler.is_exporting():
        return _exported_indices(keep_mask, counts, minimum)
    low, high = (int(value) for value in torch.stack([counts.amin(), counts.amax()]).tolist())
    high = max(high, minimum)
    order = torch.sort(keep_mask.to(torch.uint8), dim=1, descending=True, stable=True).indices[:, :high]
    if low == high:
        return order, None
    return order, torch.arange(high, device=keep_mask.device).unsqueeze(0) < counts.unsqueeze(1)


def _exported_indices(keep_mask: Tensor, counts: Tensor, minimum: int) -> tuple[Tensor, Tensor]:
    """Compute ``compact_indices`` in a graph that ``torch.export`` records, where M is a symbol; slots are never None.

    The order comes from distinct whole numbers: kept tokens before dropped ones, then by position. So no sort has to be
    stable, nor to support booleans, in the runtime that the graph is converted to.
    """
    width = keep_mask.shape[1]
    # At least two slots: libraries take other branches for a single token, which a graph cannot hold as well.
    high = counts.amax(0).clamp_min(max(minimum, 2)).item()
    check: Any = torch._check  # facts that the export cannot derive
    check(high >= 2)
    check(high <= width)
    positions = torch.arange(width, device=keep_mask.device)
    order = torch.where(keep_mask, positions, positions + width).sort(dim=1).indices[:, :high]
    return order, torch.arange(high, device=keep_mask.device).unsqueeze(0) < counts.unsqueeze(1)


def compact(tensor: Tensor, indices: Tensor) -> Tensor:
    """Gather [B, N, ...] at indices [B, M] to [B, M, ...].

    States are gathered row by row with ``index_select``, which is several times faster than an elementwise ``gather``.
    """
    if tensor.dim() == 2:
        return tensor.gather(1, indices)
    rows = tensor.flatten(0, 1).index_select(0, _flat(indices, tensor.shape[1]))
    return rows.view(*indices.shape, *tensor.shape[2:])


def restore(current: Tensor, previous: Tensor, indices: Tensor, slots: Tensor | None) -> Tensor:
    """Write the states of kept tokens back into the full sequence.

    Args:
        current: [B, M, D], present states of the kept tokens.
        previous: [B, N, D], states of all tokens at the time of the removal; dropped tokens keep these.
        indices: [B, M] from ``compact_indices``.
        slots: [B, M] bool or None, from ``compact_indices``.

    Returns:
        [B, N, D].
    """
    if slots is not None:
        current = torch.where(slots.unsqueeze(-1), current, compact(previous, indices))
    rows = previous.flatten(0, 1).index_copy(0, _flat(indices, previous.shape[1]), current.flatten(0, 1))
    return rows.view(previous.shape)


def _flat(indices: Tensor, length: int) -> Tensor:
    """Convert indices [B, M] into [B, N] to indices [B * M] into [B * N]."""
    return (indices + length * torch.arange(indices.shape[0], device=indices.device).unsqueeze(1)).flatten()
