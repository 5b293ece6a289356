"""Measure what a bounded cache costs: the loss of tokens that are predicted after it is full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.cache.budget import CacheBudget
from retention.cache.cache import retain_cache
from retention.cache.policies.base import CachePolicy
from retention.errors import require


@dataclass(frozen=True)
class TextLoss:
    """Loss of one text.

    Attributes:
        mean: of the counted tokens, in nats.
        tokens: number of counted tokens.
    """

    mean: float
    tokens: int


@torch.no_grad()
def text_loss(
    model: Any,
    input_ids: Tensor,
    start: int,
    policy: CachePolicy | None = None,
    budget: CacheBudget | None = None,
    chunk: int = 256,
) -> TextLoss:
    """Compute the mean loss of the tokens that are predicted after ``start`` tokens have been read.

    Args:
        model: a supported decoder with a language-model head, in evaluation mode.
        input_ids: [1, T] long, without padding.
        start: tokens that are read first and not counted, at most T - 1; 0 counts all but the first.
        policy: of a bounded cache; None = the full model.
        budget: of the cache.
        chunk: tokens per forward pass with a bounded cache; it has no influence on the result.

    Raises:
        ConfigError: the text is too short.
    """
    length = input_ids.shape[1]
    require(0 <= start < length, "start", f"must be in [0, {length}), the tokens of the text, got {start}")
    if policy is None:
        losses = _token_losses(model(input_ids, use_cache=False).logits, input_ids[:, 1:])
    else:
        parts = []
        with retain_cache(model, policy, budget) as cache:
            for first in range(0, length, chunk):
                logits = model(input_ids[:, first : first + chunk], past_key_values=cache).logits
                parts.append(_token_losses(logits, input_ids[:, first + 1 : first + chunk + 1]))
        losses = torch.cat(parts)
    counted = losses[max(start - 1, 0) :]
    return TextLoss(float(counted.mean()), len(counted))


def mean_loss(losses: Sequence[TextLoss]) -> float:
    """Return the mean over all counted tokens of all texts."""
    return sum(loss.mean * loss.tokens for loss in losses) / sum(loss.tokens for loss in losses)


def _token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each target [1, n] from the logits [1, >= n, V], [n]."""
    return F.cross_entropy(logits[0, : targets.shape[1]].float(), targets[0], reduction="none")
