"""Reduce attention maps to statistics per token."""

from __future__ import annotations

import torch
from torch import Tensor


def received_attention(probabilities: Tensor, query_weights: Tensor) -> Tensor:
    """Compute the attention that each token receives as a key: mean over heads, weighted sum over queries.

    Args:
        probabilities: attention probabilities [B, H, N, N]; queries before keys.
        query_weights: [B, N] float, product of the gates of each query; 0 on padding.

    Returns:
        [B, N] float32 >= 0; 1 on average over real tokens, 0 on padding.
    """
    received = torch.einsum("bhqk,bq->bk", probabilities, query_weights.to(probabilities.dtype))
    return received.float() / probabilities.shape[1]
