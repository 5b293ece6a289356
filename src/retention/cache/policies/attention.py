"""Reduce attention maps to what policies of the bounded cache need."""

from __future__ import annotations

import torch
from torch import Tensor

from retention.cache.policies.base import Observation


def mean_attention(observation: Observation) -> Tensor:
    """Return the attention of each query, mean over heads, [B, Q, N] float32; queries that are padding pay none."""
    assert observation.attention is not None  # ``RescoringPolicy.check`` has refused other models
    return observation.attention.float().mean(1) * observation.valid.unsqueeze(2)


def latest_queries(history: Tensor, new: Tensor, valid: Tensor, count: int) -> Tensor:
    """Append the attention of the queries of a pass to that of earlier ones and return the latest ``count``.

    Args:
        history: [B, N, S], attention of earlier queries, oldest first.
        new: [B, Q, N], attention of the queries of this pass.
        valid: [B, Q] bool, True = real token; padding is left out.
        count: queries to return, at most S.

    Returns:
        [B, N, count].
    """
    joined = torch.cat([history, new.transpose(1, 2)], dim=2)
    real = torch.cat([valid.new_ones((len(valid), history.shape[2])), valid], dim=1)
    order = torch.sort(real.int(), dim=1, stable=True).indices[:, -count:]
    return joined.gather(2, order.unsqueeze(1).expand(-1, joined.shape[1], -1))
