"""H2O (Zhang et al., NeurIPS 2023, arXiv 2306.14048): accumulated attention."""

from __future__ import annotations

from torch import Tensor

from retention.cache.policies.attention import mean_attention
from retention.cache.policies.base import Observation, RescoringPolicy


class H2O(RescoringPolicy):
    """Keep the tokens that have received the most attention in total; needs eager attention.

    Source: arXiv 2306.14048.

    Differs from the paper: attention is averaged over the heads that hold the same tokens, all of a layer unless the
    budget is per head.
    """

    def rescore(self, observation: Observation, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Add the attention of all queries of the pass."""
        received = mean_attention(observation).sum(2)
        statistics = statistics + received.unsqueeze(3)
        return statistics, statistics[..., 0]
