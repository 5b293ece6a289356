"""Gather the kept tokens of a batch and restore the full sequence."""

from __future__ import annotations

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
    low, high = (int(value) for value in torch.stack([counts.amin(), counts.amax()]).tolist())
    high = max(high, minimum)
    order = torch.sort(keep_mask.to(torch.uint8), dim=1, descending=True, stable=True).indices[:, :high]
    if low == high:
        return order, None
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
    return (indices + length * torch.arange(len(indices), device=indices.device).unsqueeze(1)).flatten()
