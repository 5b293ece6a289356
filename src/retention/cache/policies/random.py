"""Random selection beside sinks and window, the baseline that a learned policy has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from retention.cache.policies.base import Arrivals, CachePolicy


class RandomBank(CachePolicy):
    """Keep a uniformly random subset of the tokens that have left the window.

    Scores are a hash of seed, layer, head (if the budget is per head) and index in the sequence, so a result depends
    neither on the batch nor on chunks; sequences of equal length keep the same indices.

    Args:
        seed: of the selection.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def score(self, arrivals: Arrivals) -> Tensor:
        """Return numbers in [0, 1), [B, G, Q]."""
        heads = torch.arange(arrivals.groups, device=arrivals.ranks.device).unsqueeze(1)
        constant = 1_000_003 * (arrivals.layer_idx + 1) + 998_244_353 * (self.seed + 1)
        value = _mix(arrivals.ranks.unsqueeze(1) + 777_767_777 * heads + constant)
        return (value & 0xFFFFFF).float() / 2.0**24


def _mix(value: Tensor) -> Tensor:
    """Hash 64-bit integers; multiplication wraps around."""
    value = (value ^ (value >> 31)) * 0x5851F42D4C957F2D
    value = (value ^ (value >> 29)) * 0x14057B7EF767814F
    return value ^ (value >> 32)
