"""Provide the settings of a bounded cache: its size and the tokens that it always holds."""

from __future__ import annotations

from dataclasses import dataclass

from retention.errors import require


@dataclass(frozen=True, kw_only=True)
class CacheBudget:
    """Number of tokens that each layer of the cache holds, and how they are chosen.

    After the arrival of a token a layer (with ``per_head``, each of its key-value heads) holds the first ``sinks``
    tokens, the ``window`` newest ones (the new token is one of them), and the best-scored of the others, ``size``
    tokens together. Sinks and window are protected because selection methods collapse without them (Xiao et al., arXiv
    2309.17453; arXiv 2605.18053).

    Attributes:
        size: M, the largest number of tokens that a layer holds at any time, the token being processed included.
        sinks: number of first tokens that are always kept, >= 0.
        window: number of newest tokens that are always kept, >= 1.
        block: tokens evicted at once, >= 1. A full layer shrinks to ``size - block + 1`` tokens and then grows again to
            ``size``, so a larger block evicts less often and holds fewer tokens on average.
        per_head: True = every key-value head of a layer chooses its own ``size`` tokens; False = all heads of a layer
            hold the same ones. The memory is the same.

    Raises:
        ConfigError: a number is out of its range, or sinks, window and block leave no room.
    """

    size: int = 256
    sinks: int = 4
    window: int = 64
    block: int = 1
    per_head: bool = False

    def __post_init__(self) -> None:
        require(self.sinks >= 0, "sinks", f"must be >= 0, got {self.sinks}")
        require(self.window >= 1, "window", f"must be >= 1, since a token attends to itself, got {self.window}")
        require(self.block >= 1, "block", f"must be >= 1, got {self.block}")
        smallest = self.sinks + self.window + self.block - 1
        message = f"must be >= sinks + window + block - 1 = {smallest}, got {self.size}"
        require(self.size >= smallest, "size", message)

    @property
    def bank(self) -> int:
        """Return the number of tokens that are kept for their score alone, right after an eviction."""
        return self.size - self.block + 1 - self.sinks - self.window

    def stored(self, count: int) -> int:
        """Return the number of tokens that a layer, or each of its heads, holds after ``count`` tokens."""
        if count <= self.size:
            return count
        return self.size - self.block + 1 + (count - self.size - 1) % self.block
