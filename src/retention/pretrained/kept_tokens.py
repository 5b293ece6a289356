"""Describe which tokens of a text were kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class KeptTokens:
    """Tokens of one text and how far each went.

    Attributes:
        text: as it was tokenized, with its prompt.
        tokens: with special tokens, truncated to the model's maximum length.
        offsets: characters ``[start, end)`` of each token in ``text``; (0, 0) for special tokens.
        depth: for each token the number of gates that kept it, 0 .. gates.
        layers: gated layers, 0-based; -1 = before layer 0.
    """

    text: str
    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    depth: tuple[int, ...]
    layers: tuple[int, ...]

    @property
    def kept(self) -> tuple[bool, ...]:
        """Return for each token True if every gate kept it."""
        return tuple(depth == len(self.layers) for depth in self.depth)

    @property
    def keep_ratio(self) -> float:
        """Return kept tokens / tokens, mean over the gated layers, in (0, 1]; 1 without gates."""
        return sum(self.depth) / (len(self.layers) * len(self.depth)) if self.layers else 1.0

    def example(self) -> dict[str, Any]:
        """Return the text as an example of the token heat map, see ``retention.report.token_heatmap``."""
        return {
            "tokens": list(self.tokens),
            "depth": list(self.depth),
            "text": self.text,
            "offsets": [list(offset) for offset in self.offsets],
        }
