"""Check texts, and build tensors from their token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from retention.errors import ConfigError, Problem, require


def checked_texts(texts: Iterable[str]) -> list[str]:
    """Return texts as a list.

    Raises:
        ConfigError: ``texts`` is a single string or holds anything but strings.
    """
    single = isinstance(texts, str | bytes) or not isinstance(texts, Iterable)
    require(not single, "texts", f"must be a list of strings, got a {type(texts).__name__}")
    listed = list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise ConfigError([Problem(f"texts[{index}]", f"must be a string, got a {type(text).__name__}")])
    return listed


def pad_rows(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Pad rows of token ids on the right; return token ids and mask (1 = real token), [B, T] long."""
    width = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    return input_ids, mask


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids of the special tokens that a tokenizer puts around a text."""
    added = tokenizer("", add_special_tokens=True)["input_ids"]
    return tuple(sorted(set(cast("list[int]", added))))
