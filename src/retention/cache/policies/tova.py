"""TOVA (Oren et al., EMNLP 2024, arXiv 2401.06104): attention of the last query."""

from __future__ import annotations

from torch import Tensor

from retention.cache.policies.attention import latest_queries, mean_attention
from retention.cache.policies.base import Observation, RescoringPolicy


class TOVA(RescoringPolicy):
    """Keep the tokens to which the last query has paid the most attention; needs eager attention.

    Source: arXiv 2401.06104.

    Attention is averaged over the heads that hold the same tokens, all of a layer unless the budget is per head.

    Differs from the paper: sinks and window are protected, as for all policies here; choose ``sinks=0, window=1`` for
    the paper's rule.
    """

    def rescore(self, observation: Observation, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Replace the statistics by the attention of the last real query of the pass."""
        statistics = latest_queries(statistics, mean_attention(observation), observation.valid, 1)
        return statistics, statistics[..., 0]
