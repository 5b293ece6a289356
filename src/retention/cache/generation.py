"""Continue a batch of sequences greedily from copies of one cache."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from retention.cache.cache import RetentionCache
from retention.cache.policies.base import RescoringPolicy
from retention.cache.reading import TokenBatch, forward


@torch.no_grad()
def greedy_tokens(
    model: Any,
    cache: RetentionCache,
    prompts: Sequence[Tensor],
    before: Tensor,
    *,
    new_tokens: int,
    stop: Collection[int] = (),
) -> Tensor:
    """Read one prompt per sequence and return the tokens that greedy decoding writes after it.

    A ``RescoringPolicy`` reads the prompts token by token, as tokens of a longer pass would attend to more than M.

    Args:
        model: a supported decoder with a language-model head, in evaluation mode.
        cache: the cache of what the B sequences have read so far; it is changed.
        prompts: token ids [T_i] of each sequence, at least one token each.
        before: [B, C] mask of what the cache has read, 1 = real token.
        new_tokens: tokens to write, >= 1.
        stop: token ids that end a sequence; reading ends when all sequences have written one of them.

    Returns:
        [B, N] long, 1 <= N <= new_tokens. What follows the first stop token of a row has no meaning.
    """
    lengths = before.sum(1)
    batch = TokenBatch.build(prompts, first=lengths)
    width = batch.input_ids.shape[1]
    step = 1 if isinstance(cache.policy, RescoringPolicy) else width
    for start in range(0, width, step):
        logits = forward(model, cache, batch, start, min(start + step, width), before, logits_to_keep=1)
    before = torch.cat([before, batch.attention_mask], dim=1)
    positions = before.sum(1, keepdim=True)
    written, ones = [logits[:, -1].argmax(-1)], torch.ones_like(positions)
    endings = torch.tensor(sorted(stop), dtype=torch.long, device=before.device)
    ended = torch.isin(written[-1], endings)
    while len(written) < new_tokens and not bool(ended.all()):
        token = TokenBatch(written[-1].unsqueeze(1), ones, positions + (len(written) - 1))
        logits = forward(model, cache, token, 0, 1, before)
        before = torch.cat([before, ones], dim=1)
        written.append(logits[:, -1].argmax(-1))
        ended = ended | torch.isin(written[-1], endings)
    return torch.stack(written, dim=1)
