"""SnapKV (Li et al., NeurIPS 2024, arXiv 2404.14469): attention of an observation window, pooled over neighbors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.cache.policies.attention import latest_queries, mean_attention
from retention.cache.policies.base import Observation, RescoringPolicy
from retention.errors import require


class SnapKV(RescoringPolicy):
    """Keep the tokens to which the last queries have paid the most attention, with their neighbors; needs eager.

    Feed the prompt in one pass for the paper's selection: its last queries vote once for what stays. In later passes
    the votes go on, since a cache of fixed size also has to choose among generated tokens.

    Args:
        queries: number of last queries that vote, >= 1.
        kernel: tokens that share their votes with a neighbor (maximum over ``kernel`` held tokens), odd, >= 1.

    Source: arXiv 2404.14469.

    Differs from the paper: votes are averaged over the heads that hold the same tokens, all of a layer unless the
    budget is per head, and generated tokens can be evicted.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(self, queries: int = 16, kernel: int = 7) -> None:
        super().__init__()
        require(queries >= 1, "queries", f"must be >= 1, got {queries}")
        require(kernel >= 1 and kernel % 2 == 1, "kernel", f"must be odd and >= 1, got {kernel}")
        self.statistics = queries
        self.kernel = kernel

    def rescore(self, observation: Observation, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Take the votes of the last queries, and pool them over neighboring tokens."""
        statistics = latest_queries(statistics, mean_attention(observation), observation.valid, self.statistics)
        votes = statistics.sum(3).masked_fill(~observation.held, 0.0)
        order = torch.sort(observation.held.int(), dim=2, descending=True, stable=True).indices  # empty slots last
        pooled = F.max_pool1d(votes.gather(2, order), self.kernel, stride=1, padding=self.kernel // 2)
        return statistics, torch.zeros_like(pooled).scatter(2, order, pooled)
