"""Measure what a bounded cache costs: the loss of tokens that are predicted after it is full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.cache.budget import CacheBudget
from retention.cache.cache import retain_cache
from retention.cache.comparison import Measurement
from retention.cache.policies.base import CachePolicy, RescoringPolicy
from retention.cache.reading import CHUNK, TokenBatch, forward, spans
from retention.errors import require

_QUARTERS = 4


@dataclass(frozen=True)
class TextLoss:
    """Loss of one text.

    Attributes:
        mean: of the counted tokens, in nats.
        tokens: number of counted tokens.
        by_quarter: mean loss of each quarter of the counted tokens, from the first to the last; None = no token in it.
    """

    mean: float
    tokens: int
    by_quarter: tuple[float | None, ...] = ()


@torch.no_grad()
def text_loss(
    model: Any,
    input_ids: Tensor,
    start: int,
    policy: CachePolicy | None = None,
    budget: CacheBudget | None = None,
    chunk: int = CHUNK,
) -> TextLoss:
    """Compute the mean loss of the tokens that are predicted after ``start`` tokens have been read.

    Args:
        model: a supported decoder with a language-model head, in evaluation mode.
        input_ids: [1, T] long, without padding.
        start: tokens that are read first and not counted, at most T - 1; 0 counts all but the first.
        policy: of a bounded cache; None = the full model. A ``RescoringPolicy`` reads tokens one by one.
        budget: of the cache.
        chunk: tokens per forward pass with a bounded cache; it has no influence on the result.

    Raises:
        ConfigError: the text is too short.
    """
    return text_losses(model, [input_ids], start, policy, budget, chunk)[0]


@torch.no_grad()
def text_losses(
    model: Any,
    texts: Sequence[Tensor],
    start: int,
    policy: CachePolicy | None = None,
    budget: CacheBudget | None = None,
    chunk: int = CHUNK,
) -> list[TextLoss]:
    """Compute ``text_loss`` of several texts [1, T]; a ``RescoringPolicy`` reads all of them as one batch."""
    for text in texts:
        message = f"must be in [0, {text.shape[1]}), the tokens of the text, got {start}"
        require(0 <= start < text.shape[1], "start", message)
    if policy is None:
        losses = [_token_losses(model(text, use_cache=False).logits, text[:, 1:]) for text in texts]
    elif isinstance(policy, RescoringPolicy):
        losses = _batch_losses(model, texts, policy, budget or CacheBudget(), chunk)
    else:
        groups = [_batch_losses(model, [text], policy, budget or CacheBudget(), chunk) for text in texts]
        losses = [loss for group in groups for loss in group]
    counted = [loss[max(start - 1, 0) :] for loss in losses]
    return [TextLoss(float(loss.mean()), len(loss), _by_quarter(loss)) for loss in counted]


def mean_loss(losses: Sequence[TextLoss]) -> float:
    """Return the mean over all counted tokens of all texts."""
    return sum(loss.mean * loss.tokens for loss in losses) / sum(loss.tokens for loss in losses)


def measure_losses(model: Any, texts: Sequence[Tensor], policy: CachePolicy | None, budget: CacheBudget) -> Measurement:
    """Measure the loss of the tokens that are predicted after ``budget.size`` tokens have been read.

    Args:
        model: a supported decoder with a language-model head, in evaluation mode.
        texts: token ids [1, T] of each text.
        policy: of the bounded cache; None = the full model.
        budget: of the cache.

    Raises:
        ConfigError: a text is too short.
    """
    losses = text_losses(model, texts, budget.size, policy, budget)
    by_text, counted = [loss.mean for loss in losses], [loss.tokens for loss in losses]
    fields = {"loss_by_quarter": _mean_quarters(losses)}
    return Measurement(mean_loss(losses), by_text, [text.shape[1] for text in texts], counted, fields)


def _by_quarter(loss: Tensor) -> tuple[float | None, ...]:
    return tuple(float(part.mean()) if len(part) else None for part in loss.tensor_split(_QUARTERS))


def _mean_quarters(losses: Sequence[TextLoss]) -> list[float | None]:
    """Return the mean of each quarter over the texts that have a token in it."""
    columns = zip(*(loss.by_quarter for loss in losses), strict=True)
    present = [[value for value in column if value is not None] for column in columns]
    return [fmean(values) if values else None for values in present]


def _batch_losses(
    model: Any, texts: Sequence[Tensor], policy: CachePolicy, budget: CacheBudget, chunk: int
) -> list[Tensor]:
    """Return the loss of each token but the first, [T - 1] for each text."""
    batch = TokenBatch.build([text[0] for text in texts], side="right")
    before = batch.attention_mask[:, :0]
    targets = torch.cat([batch.input_ids[:, 1:], batch.input_ids[:, :1]], dim=1)
    parts = []
    with retain_cache(model, policy, budget) as cache:
        for first, end in spans(targets.shape[1], policy, budget, chunk):
            logits = forward(model, cache, batch, first, end, before)
            losses = [
                _token_losses(row[None], target[None])
                for row, target in zip(logits, targets[:, first:end], strict=True)
            ]
            parts.append(torch.stack(losses))
    joined = torch.cat(parts, dim=1)
    return [row[: text.shape[1] - 1] for row, text in zip(joined, texts, strict=True)]


def _token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each target [1, n] from the logits [1, >= n, V], [n]."""
    return F.cross_entropy(logits[0, : targets.shape[1]].float(), targets[0], reduction="none")
