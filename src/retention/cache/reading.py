"""Feed batches of token sequences to a decoder with a bounded cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retention.cache.budget import CacheBudget
from retention.cache.cache import RetentionCache
from retention.cache.policies.base import CachePolicy, RescoringPolicy
from retention.cache.policies.streaming_llm import StreamingLLM

CHUNK = 256
_UNBOUNDED = 2**20  # tokens; more than any text that is read


@dataclass(frozen=True)
class TokenBatch:
    """Sequences of B texts, padded to T columns.

    Attributes:
        input_ids: [B, T] long.
        attention_mask: [B, T] long, 1 = real token.
        position_ids: [B, T] long, index among the real tokens.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor

    @classmethod
    def build(cls, rows: Sequence[Tensor], *, side: str = "left", first: Tensor | None = None) -> TokenBatch:
        """Pad sequences of token ids [T_i].

        Args:
            rows: one sequence of token ids per text.
            side: ``left`` or ``right``, where padding goes.
            first: [B] long, position of the first real token of each sequence; None = 0.
        """
        ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_side=side)
        ones = [torch.ones_like(row) for row in rows]
        mask = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_side=side)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        return cls(ids, mask, positions if first is None else positions + first.unsqueeze(1))


def spans(length: int, policy: CachePolicy, budget: CacheBudget, chunk: int = CHUNK) -> Iterator[tuple[int, int]]:
    """Yield the columns ``[start, end)`` of each forward pass over a sequence.

    A ``RescoringPolicy`` reads the tokens after the first M one by one, because tokens of a longer pass would attend to
    more than M. Other policies give the same result for all chunks.
    """
    start, steps = 0, isinstance(policy, RescoringPolicy)
    while start < length:
        size = chunk if not steps else budget.size if start == 0 else 1
        end = min(start + size, length)
        yield start, end
        start = end


def forward(
    model: Any, cache: RetentionCache, batch: TokenBatch, start: int, end: int, before: Tensor, **kwargs: Any
) -> Tensor:
    """Run the model on the columns ``[start, end)`` and return its logits [B, end - start, V].

    Args:
        model: a supported decoder with a language-model head.
        cache: the cache that goes with it.
        batch: the sequences.
        start: first column.
        end: column after the last.
        before: [B, C] mask of what the cache has read before this batch; C = 0 for a new cache.
        kwargs: further arguments of the model, such as ``logits_to_keep``.
    """
    mask = torch.cat([before, batch.attention_mask[:, :end]], dim=1)
    logits: Tensor = model(
        batch.input_ids[:, start:end],
        attention_mask=mask,
        position_ids=batch.position_ids[:, start:end],
        past_key_values=cache,
        **kwargs,
    ).logits
    return logits


def read_context(model: Any, cache: RetentionCache, batch: TokenBatch) -> None:
    """Read whole sequences into a new cache, in the passes that its policy needs.

    Args:
        model: a supported decoder with a language-model head.
        cache: the cache that goes with it, still empty.
        batch: the sequences.
    """
    empty = batch.attention_mask[:, :0]
    for start, end in spans(batch.input_ids.shape[1], cache.policy, cache.budget):
        forward(model, cache, batch, start, end, empty, logits_to_keep=1)


def full_cache() -> tuple[CachePolicy, CacheBudget]:
    """Return the policy and the budget of a cache that evicts nothing."""
    return StreamingLLM(), CacheBudget(size=_UNBOUNDED)


@contextmanager
def attention_for(model: Any, policy: CachePolicy | None) -> Iterator[None]:
    """Return a context in which the model uses eager attention if the policy reads attention maps, otherwise sdpa."""
    before = model.config._attn_implementation
    eager = isinstance(policy, RescoringPolicy) and policy.needs_attention
    model.set_attn_implementation("eager" if eager else "sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
