"""StreamingLLM (Xiao et al., ICLR 2024, arXiv 2309.17453): attention sinks and the most recent tokens."""

from __future__ import annotations

from torch import Tensor

from retention.cache.policies.base import Arrivals, CachePolicy


class StreamingLLM(CachePolicy):
    """Keep the first tokens and the newest ones: the whole bank extends the window.

    Differs from the paper: kept tokens retain their positions in the text instead of positions within the cache.

    Source: arXiv 2309.17453.
    """

    def score(self, arrivals: Arrivals) -> Tensor:
        """Return the index of each token in its sequence."""
        return arrivals.ranks.float()
