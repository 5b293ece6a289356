"""Reduce attention maps to what policies of the bounded cache need."""

from __future__ import annotations

import torch
from torch import Tensor

from retention.cache.policies.base import Observation, group_mean


def mean_attention(observation: Observation) -> Tensor:
    """Return the attention of each query, mean over the query heads of each group, [B, G, Q, N] float32.

    Queries that are padding pay none.
    """
    assert observation.attention is not None  # ``RescoringPolicy.check`` has refused other models
    return group_mean(observation.attention.float(), observation.groups) * observation.valid[:, None, :, None]


def latest_queries(history: Tensor, new: Tensor, valid: Tensor, count: int) -> Tensor:
    """Append the attention of the queries of a pass to that of earlier ones and return the latest ``count``.

    Args:
        history: [B, G, N, S], attention of earlier queries, oldest first.
        new: [B, G, Q, N], attention of the queries of this pass.
        valid: [B, Q] bool, True = real token; padding is left out.
        count: queries to return, at most S.

    Returns:
        [B, G, N, count].
    """
    joined = torch.cat([history, new.transpose(2, 3)], dim=3)
    real = torch.cat([valid.new_ones((len(valid), history.shape[3])), valid], dim=1)
    order = torch.sort(real.int(), dim=1, stable=True).indices[:, -count:]
    return joined.gather(3, order[:, None, None].expand(-1, *joined.shape[1:3], -1))
