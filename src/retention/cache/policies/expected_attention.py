"""Expected attention (Devoto et al., arXiv 2510.00636): attention of future queries, from their distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from retention.cache.policies.base import Observation, RescoringPolicy, group_mean
from retention.errors import require


class ExpectedAttention(RescoringPolicy):
    """Keep the tokens that a Gaussian model of coming queries attends to most, times the norm of their value.

    Mean and covariance of the queries before rotary embedding are accumulated over all tokens read so far. The expected
    logit weight of a key k is ``exp(mean @ k / sqrt(d) + k @ cov @ k / (2 d))``, with mean and covariance rotated by
    the mean rotation of the next ``horizon`` positions. No attention maps: it runs with sdpa.

    Args:
        horizon: number of coming positions, >= 1.
        eps: added to the expected attention before it is multiplied by the norm of the value, >= 0.

    Source: arXiv 2510.00636.

    Differs from the paper: scores are averaged over the heads that hold the same tokens, all of a layer unless the
    budget is per head.

    Raises:
        ConfigError: a number is out of range.
    """

    statistics = 0
    needs_attention = False

    def __init__(self, horizon: int = 256, eps: float = 0.02) -> None:
        super().__init__()
        require(horizon >= 1, "horizon", f"must be >= 1, got {horizon}")
        require(eps >= 0, "eps", f"must be >= 0, got {eps}")
        self.horizon, self.eps = horizon, eps

    def check_layer(self, module: nn.Module, rotary: nn.Module | None) -> None:
        """Check that the layer has a projection of queries and a rotary embedding of the whole head."""
        message = (
            f"ExpectedAttention needs layers with a q_proj and rotary embedding (Llama, Mistral, Qwen2, Qwen3), got "
            f"{type(module).__name__}; choose another policy"
        )
        require(isinstance(getattr(module, "q_proj", None), nn.Module) and rotary is not None, "policy", message)

    def rescore(self, observation: Observation, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Accumulate the moments of the queries and compute the expected attention of all held tokens."""
        queries = _queries(observation)
        batch, heads, _, size = queries.shape
        moments = _moments(queries, observation.valid)
        observation.state = moments if observation.state is None else observation.state + moments
        total, first, second = torch.split(observation.state, [1, heads * size, heads * size * size], dim=1)
        total = total.clamp_min(1.0)
        mean = (first / total).view(batch, heads, size)
        covariance = (second / total).view(batch, heads, size, size) - mean.unsqueeze(3) * mean.unsqueeze(2)
        rotation = _mean_rotation(observation, self.horizon, size)
        mean = torch.einsum("bij,bhj->bhi", rotation, mean)
        covariance = torch.einsum("bij,bhjk,blk->bhil", rotation, covariance, rotation)
        repeats = heads // observation.keys.shape[1]
        keys = observation.keys.float().repeat_interleave(repeats, dim=1)
        logits = torch.einsum("bhnd,bhd->bhn", keys, mean) / size**0.5
        logits = logits + torch.einsum("bhnd,bhde,bhne->bhn", keys, covariance, keys) / (2 * size)
        held = observation.held.repeat_interleave(heads // observation.groups, dim=1)
        logits = logits.masked_fill(~held, float("-inf"))
        norms = torch.linalg.vector_norm(observation.values.float(), dim=-1).repeat_interleave(repeats, dim=1)
        return statistics, group_mean((logits.softmax(2) + self.eps) * norms, observation.groups)


def _queries(observation: Observation) -> Tensor:
    """Return the queries before rotary embedding, [B, heads, Q, d] float32."""
    module: Any = observation.module
    shape = (*observation.hidden_states.shape[:2], -1, module.head_dim)
    queries = module.q_proj(observation.hidden_states).view(shape)
    norm = getattr(module, "q_norm", None)  # Qwen3
    queries = queries if norm is None else norm(queries)
    transposed: Tensor = queries.transpose(1, 2).float()
    return transposed


def _moments(queries: Tensor, valid: Tensor) -> Tensor:
    """Return count, sum and sum of outer products of the real queries, flattened to [B, 1 + heads (d + d d)]."""
    queries = queries * valid[:, None, :, None]
    first = queries.sum(2)
    second = torch.einsum("bhqd,bhqe->bhde", queries, queries)
    return torch.cat([valid.sum(1, keepdim=True).float(), first.flatten(1), second.flatten(1)], dim=1)


def _mean_rotation(observation: Observation, horizon: int, size: int) -> Tensor:
    """Return the mean over the coming positions of the matrix that rotary embedding applies to a query, [B, d, d]."""
    rotary: Any = observation.rotary
    coming = torch.arange(horizon, device=observation.counts.device)
    cosines, sines = rotary(observation.hidden_states, observation.counts.unsqueeze(1) + coming)
    cosines, sines = cosines.float().mean(1), sines.float().mean(1)
    half = size // 2
    identity = torch.eye(size, device=cosines.device)
    turned = torch.cat([-identity[half:], identity[:half]])  # rotate_half as a matrix
    rotation: Tensor = cosines.unsqueeze(2) * identity + sines.unsqueeze(2) * turned
    return rotation
