"""Which tokens see each other where attention is local: a band in original positions, plus global tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.engine.compaction import compact, compact_indices

BLOCK = 128  # queries that are taken together
WORTH = 0.75  # share of all pairs; blocks that cover more than that save less than they cost

Cached = TypeVar("Cached")


@dataclass(frozen=True)
class Block:
    """Queries first..last-1 and the slice of keys, near..far-1, that holds all tokens within their windows."""

    first: int
    last: int
    near: int
    far: int


class TokenBand:
    """The tokens of a batch that take part in one attention; N is the current length.

    Args:
        positions: [B, N] long, original positions.
        valid: [B, N] bool, True = real token.
        is_global: [B, N] bool, True = sees all tokens and is seen by all.
        gate_bias: dtype -> [B, N] <= 0, added to the logits of each key, or None; by default no gates.

    Attributes:
        padded: whether any slot holds no real token.
        num_global: G, the most global tokens that one text of the batch has.
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
        """Lay out everything that an attention with this window asks for."""
        blocks = self.blocks(window)
        if blocks is None:
            self.dense_mask(window, dtype)
        for block in blocks or ():
            self.block_mask(block, window, dtype)
        if self.num_global:
            self.key_bias(dtype)

    def blocks(self, window: int) -> list[Block] | None:
        """Blocks of queries with the keys near them; None where the whole product is as good.

        Args:
            window: positions on each side that a query sees.
        """
        return self._cached(("blocks", window), lambda: self._cut(window))

    def dense_mask(self, window: int, dtype: torch.dtype) -> Tensor:
        """Which pairs see each other, [B, 1, N, N]: bool, True = attend, or additive while gates are soft."""
        whole = Block(0, self.positions.shape[1], 0, self.positions.shape[1])

        def build() -> Tensor:
            seen = self._near(whole, window) | self.is_global[:, None, :]
            return self._with_gates(seen & self.valid[:, None, :] | _itself(whole, seen), self.gate_bias(dtype))

        return self._cached(("dense", window, dtype), build)

    def block_mask(self, block: Block, window: int, dtype: torch.dtype) -> Tensor:
        """The same for the queries of a block; keys are the global tokens, then the block's: [B, 1, Q, G + K]."""
        keys = slice(block.near, block.far)

        def build() -> Tensor:
            local = self._near(block, window) & (self.valid & ~self.is_global)[:, None, keys]
            local = local | _itself(block, local)
            used = torch.ones_like(self.global_indices, dtype=torch.bool)
            shared = (used if self.global_slots is None else self.global_slots)[:, None, :]
            seen = torch.cat([shared.expand(-1, local.shape[1], -1), local], 2)
            bias = self.gate_bias(dtype)
            if bias is not None:
                bias = torch.cat([compact(bias, self.global_indices), bias[:, keys]], 1)
            return self._with_gates(seen, bias)

        return self._cached((block, window, dtype), build)

    def key_bias(self, dtype: torch.dtype) -> Tensor | None:
        """Additive mask of the keys for queries that see all tokens, [B, 1, 1, N]; None = nothing to add."""

        def build() -> Tensor | None:
            bias = self.gate_bias(dtype)
            if bias is None and not self.padded:
                return None
            bias = torch.zeros(self.valid.shape, dtype=dtype, device=self.valid.device) if bias is None else bias
            return torch.where(self.valid, bias, torch.finfo(dtype).min)[:, None, None, :]

        return self._cached(("keys", dtype), build)

    def global_rows(self, states: Tensor) -> Tensor:
        """Rows of the global tokens, [B, H, N, d] -> [B, H, G, d]; unused slots hold some other token's."""
        indices = self.global_indices[:, None, :, None]
        return states.gather(2, indices.expand(-1, states.shape[1], -1, states.shape[3]))

    def _near(self, block: Block, window: int) -> Tensor:
        """[B, Q, K] bool."""
        asking, asked = self.positions[:, block.first : block.last], self.positions[:, block.near : block.far]
        return (asking[:, :, None] - asked[:, None, :]).abs() <= window

    def _with_gates(self, seen: Tensor, bias: Tensor | None) -> Tensor:
        if bias is None:
            return seen.unsqueeze(1)
        return torch.where(seen, bias[:, None, :], torch.finfo(bias.dtype).min).unsqueeze(1)

    def _cut(self, window: int) -> list[Block] | None:
        length = self.positions.shape[1]
        if length <= BLOCK:
            return None
        low, high = self._reach(window)
        real = self.valid[:, None, :]
        inside = (self.positions[:, None, :] >= low[:, :, None]) & (self.positions[:, None, :] <= high[:, :, None])
        needed = (inside & real).any(0).to(torch.uint8)  # [blocks, N]
        near = needed.argmax(1).tolist()
        far = (length - needed.flip(1).argmax(1)).tolist()
        blocks = []
        for index, first in enumerate(range(0, length, BLOCK)):
            last = min(first + BLOCK, length)  # a block's own keys are always among them, so no row is without a key
            blocks.append(Block(first, last, min(first, near[index]), max(last, min(far[index], length))))
        pairs = sum((block.last - block.first) * (block.far - block.near + self.num_global) for block in blocks)
        return blocks if pairs < WORTH * length**2 else None

    def _reach(self, window: int) -> tuple[Tensor, Tensor]:
        """First and last position that any real query of a block sees, [B, blocks] each."""
        missing = -self.positions.shape[1] % BLOCK
        limit = torch.iinfo(torch.long).max // 2
        first = F.pad(self.positions.masked_fill(~self.valid, limit), (0, missing), value=limit)
        last = F.pad(self.positions.masked_fill(~self.valid, -limit), (0, missing), value=-limit)
        batch = len(self.positions)
        return first.view(batch, -1, BLOCK).amin(2) - window, last.view(batch, -1, BLOCK).amax(2) + window

    def _cached(self, key: object, build: Callable[[], Cached]) -> Cached:
        if key not in self._cache:
            self._cache[key] = build()
        return cast(Cached, self._cache[key])


def _itself(block: Block, like: Tensor) -> Tensor:
    """Where query and key are the same slot, [Q, K]: padding sees itself, attention without any key is undefined."""
    queries = torch.arange(block.first, block.last, device=like.device)
    keys = torch.arange(block.near, block.far, device=like.device)
    return queries[:, None] == keys[None, :]
