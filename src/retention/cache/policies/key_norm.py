"""Small key norms (Devoto et al., EMNLP 2024, arXiv 2406.11430)."""

from __future__ import annotations

import torch
from torch import Tensor

from retention.cache.policies.base import Arrivals, CachePolicy


class KeyNorm(CachePolicy):
    """Keep the tokens whose keys have the smallest L2 norm; nothing is learned.

    Source: arXiv 2406.11430.

    Differs from the paper: norms are averaged over heads, because a token is evicted from all heads of a layer.
    """

    def score(self, arrivals: Arrivals) -> Tensor:
        """Return the negative key norms."""
        norms: Tensor = torch.linalg.vector_norm(arrivals.keys.float(), dim=-1).mean(dim=1)
        return -norms
