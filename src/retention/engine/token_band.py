"""Describe local attention with global tokens: a band in original positions, computed in blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.engine.compaction import compact, compact_indices

BLOCK_SIZE = 128  # queries per block
MAX_PAIR_RATIO = 0.75  # blocks that cover a larger share of all pairs cost more than they save

Cached = TypeVar("Cached")


@dataclass(frozen=True)
class Block:
    """Block of queries and the slice of keys that contains all tokens within their windows; ends are exclusive."""

    query_start: int
    query_end: int
    key_start: int
    key_end: int


class TokenBand:
    """Tokens of a batch that take part in one local attention; N is the current length.

    Args:
        positions: [B, N] long, original positions.
        valid: [B, N] bool, True = real token.
        is_global: [B, N] bool, True = attends to all tokens and is attended to by all.
        gate_bias: dtype -> [B, N], added to the attention logits of each key, or None; by default no gates.

    Attributes:
        padded: True if a slot holds no real token.
        num_global: G, largest number of global tokens in a sample.
        global_indices: [B, G] long, their current indices.
        global_slots: [B, G] bool, True = in use; None = all are.
    """

    def __init__(
        self,
        positions: Tensor,
        valid: Tensor,
        is_global: Tensor,
        gate_bias: Callable[[torch.dtype], Tensor | None] = lambda dtype: None,
    ) -> None:
        self.positions = positions
        self.valid = valid
        self.is_global = is_global & valid
        self.gate_bias = gate_bias
        self.padded = not bool(valid.all())
        self.global_indices, self.global_slots = compact_indices(self.is_global)
        self.num_global = self.global_indices.shape[1]
        self._cache: dict[object, object] = {}

    def prepare(self, window: int, dtype: torch.dtype) -> None:
        """Build the blocks and masks for an attention with this window."""
        blocks = self.blocks(window)
        if blocks is None:
            self.dense_mask(window, dtype)
        for block in blocks or ():
            self.block_mask(block, window, dtype)
        if self.num_global:
            self.key_bias(dtype)

    def blocks(self, window: int) -> list[Block] | None:
        """Return blocks of queries with their nearby keys; None where the product of all pairs is as fast.

        Args:
            window: positions on each side that a query attends to.
        """
        return self._cached(("blocks", window), lambda: self._build_blocks(window))

    def dense_mask(self, window: int, dtype: torch.dtype) -> Tensor:
        """Build the mask of all pairs, [B, 1, N, N]: bool, True = attend, or additive while gates are soft."""
        whole = Block(0, self.positions.shape[1], 0, self.positions.shape[1])

        def build() -> Tensor:
            visible = self._near(whole, window) | self.is_global[:, None, :]
            visible = visible & self.valid[:, None, :] | _diagonal(whole, visible)
            return self._with_gates(visible, self.gate_bias(dtype))

        return self._cached(("dense", window, dtype), build)

    def block_mask(self, block: Block, window: int, dtype: torch.dtype) -> Tensor:
        """Build the mask of a block, [B, 1, Q, G + K]; its keys are the global tokens, then those of the block."""
        keys = slice(block.key_start, block.key_end)

        def build() -> Tensor:
            local = self._near(block, window) & (self.valid & ~self.is_global)[:, None, keys]
            local = local | _diagonal(block, local)
            used = torch.ones_like(self.global_indices, dtype=torch.bool)
            global_keys = (used if self.global_slots is None else self.global_slots)[:, None, :]
            visible = torch.cat([global_keys.expand(-1, local.shape[1], -1), local], 2)
            bias = self.gate_bias(dtype)
            if bias is not None:
                bias = torch.cat([compact(bias, self.global_indices), bias[:, keys]], 1)
            return self._with_gates(visible, bias)

        return self._cached((block, window, dtype), build)

    def key_bias(self, dtype: torch.dtype) -> Tensor | None:
        """Build the additive mask of keys for queries that attend to all tokens, [B, 1, 1, N]; None = no mask."""

        def build() -> Tensor | None:
            bias = self.gate_bias(dtype)
            if bias is None and not self.padded:
                return None
            bias = torch.zeros(self.valid.shape, dtype=dtype, device=self.valid.device) if bias is None else bias
            return torch.where(self.valid, bias, torch.finfo(dtype).min)[:, None, None, :]

        return self._cached(("keys", dtype), build)

    def global_rows(self, states: Tensor) -> Tensor:
        """Gather the rows of global tokens, [B, H, N, d] -> [B, H, G, d]; unused slots hold other tokens."""
        indices = self.global_indices[:, None, :, None]
        return states.gather(2, indices.expand(-1, states.shape[1], -1, states.shape[3]))

    def _near(self, block: Block, window: int) -> Tensor:
        """Return which keys are within the window of each query, [B, Q, K] bool."""
        queries = self.positions[:, block.query_start : block.query_end]
        keys = self.positions[:, block.key_start : block.key_end]
        return (queries[:, :, None] - keys[:, None, :]).abs() <= window

    def _with_gates(self, visible: Tensor, bias: Tensor | None) -> Tensor:
        if bias is None:
            return visible.unsqueeze(1)
        return torch.where(visible, bias[:, None, :], torch.finfo(bias.dtype).min).unsqueeze(1)

    def _build_blocks(self, window: int) -> list[Block] | None:
        length = self.positions.shape[1]
        if length <= BLOCK_SIZE:
            return None
        low, high = self._reach(window)
        real = self.valid[:, None, :]
        inside = (self.positions[:, None, :] >= low[:, :, None]) & (self.positions[:, None, :] <= high[:, :, None])
        needed = (inside & real).any(0).to(torch.uint8)  # [blocks, N]
        first_key = needed.argmax(1).tolist()
        last_key = (length - needed.flip(1).argmax(1)).tolist()
        blocks = []
        for index, start in enumerate(range(0, length, BLOCK_SIZE)):
            end = min(start + BLOCK_SIZE, length)
            # A block always contains its own keys, so that no query is without a key.
            blocks.append(Block(start, end, min(start, first_key[index]), max(end, min(last_key[index], length))))
        pairs = sum(
            (block.query_end - block.query_start) * (block.key_end - block.key_start + self.num_global)
            for block in blocks
        )
        return blocks if pairs < MAX_PAIR_RATIO * length**2 else None

    def _reach(self, window: int) -> tuple[Tensor, Tensor]:
        """Return the first and last position within the window of a real query of each block, [B, blocks] each."""
        missing = -self.positions.shape[1] % BLOCK_SIZE
        limit = torch.iinfo(torch.long).max // 2
        first = F.pad(self.positions.masked_fill(~self.valid, limit), (0, missing), value=limit)
        last = F.pad(self.positions.masked_fill(~self.valid, -limit), (0, missing), value=-limit)
        batch = len(self.positions)
        return first.view(batch, -1, BLOCK_SIZE).amin(2) - window, last.view(batch, -1, BLOCK_SIZE).amax(2) + window

    def _cached(self, key: object, build: Callable[[], Cached]) -> Cached:
        if key not in self._cache:
            self._cache[key] = build()
        return cast(Cached, self._cache[key])


def _diagonal(block: Block, like: Tensor) -> Tensor:
    """Mark where query and key are the same slot, [Q, K].

    Padding attends to itself, because attention without any key is undefined.
    """
    queries = torch.arange(block.query_start, block.query_end, device=like.device)
    keys = torch.arange(block.key_start, block.key_end, device=like.device)
    return queries[:, None] == keys[None, :]
