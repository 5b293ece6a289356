"""Small key norms (Devoto et al., EMNLP 2024, arXiv 2406.11430)."""

from __future__ import annotations

import torch
from torch import Tensor

from retention.cache.policies.base import Arrivals, CachePolicy, group_mean


class KeyNorm(CachePolicy):
    """Keep the tokens whose keys have the smallest L2 norm; nothing is learned.

    Source: arXiv 2406.11430.

    Differs from the paper: norms are averaged over the heads that hold the same tokens, all of a layer unless the
    budget is per head.
    """

    def score(self, arrivals: Arrivals) -> Tensor:
        """Return the negative key norms, [B, G, Q]."""
        return -group_mean(torch.linalg.vector_norm(arrivals.keys.float(), dim=-1), arrivals.groups)
