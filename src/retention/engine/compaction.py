"""Taking tokens out of a batch and putting them back."""

from __future__ import annotations

import torch
from torch import Tensor


def compact_indices(keep_mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """Indices that gather the kept tokens of every sample to the front, in order.

    Args:
        keep_mask: [B, N] bool, True = kept.

    Returns:
        indices [B, M] long with M the largest count, kept ones first and ascending; slots that a sample with fewer
        kept tokens does not need hold distinct dropped positions. And slots [B, M] bool, True = kept token, or None
        if all samples keep M.
    """
    counts = keep_mask.sum(1)
    low, high = (int(value) for value in torch.stack([counts.amin(), counts.amax()]).tolist())
    order = torch.sort(keep_mask.to(torch.uint8), dim=1, descending=True, stable=True).indices[:, :high]
    if low == high:
        return order, None
    return order, torch.arange(high, device=keep_mask.device).unsqueeze(0) < counts.unsqueeze(1)


def compact(tensor: Tensor, indices: Tensor) -> Tensor:
    """Gather [B, N, ...] at indices [B, M] to [B, M, ...].

    States are taken row by row, not number by number as ``gather`` does: the same result several times faster.
    """
    if tensor.dim() == 2:
        return tensor.gather(1, indices)
    rows = tensor.flatten(0, 1).index_select(0, _flat(indices, tensor.shape[1]))
    return rows.view(*indices.shape, *tensor.shape[2:])


def restore(current: Tensor, previous: Tensor, indices: Tensor, slots: Tensor | None) -> Tensor:
    """Put kept states back among the states they were taken from.

    Args:
        current: [B, M, D], states of the kept tokens now.
        previous: [B, N, D], all states at the time of the removal; dropped tokens keep these.
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
    """Indices [B, M] into [B, N] as indices [B * M] into [B * N]."""
    return (indices + length * torch.arange(len(indices), device=indices.device).unsqueeze(1)).flatten()
