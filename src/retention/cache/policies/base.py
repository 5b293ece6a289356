"""Provide the interface of policies that score the tokens of a decoder when they arrive."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass
class Arrivals:
    """New tokens of one layer: Q columns of B sequences.

    Attributes:
        layer_idx: index of the layer, from 0.
        hidden_states: [B, Q, D], input of the attention module (after its norm).
        keys: [B, H, Q, d], after rotary embedding, for H key-value heads.
        values: [B, H, Q, d].
        valid: [B, Q] bool, True = real token, False = padding.
        ranks: [B, Q] long, index among the real tokens of the sequence, from 0; -1 for padding.
        state: what the policy stored for this layer in the last pass, [B, ...]; None at the start. A recurrent policy
            assigns the new state. The cache reorders it with the sequences.
    """

    layer_idx: int
    hidden_states: Tensor
    keys: Tensor
    values: Tensor
    valid: Tensor
    ranks: Tensor
    state: Tensor | None = None


class CachePolicy(nn.Module):
    """Base class: give each new token a score that never changes, from itself and earlier tokens alone.

    Scores of one sequence and layer are compared with each other; the cache keeps the highest. A score may depend on
    earlier tokens through ``Arrivals.state``, but neither on the chunk in which the token came nor on other sequences.
    """

    @abstractmethod
    def score(self, arrivals: Arrivals) -> Tensor:
        """Return scores [B, Q], higher = kept longer; values at padding are ignored."""

    def check(self, config: Any) -> None:
        """Check that the policy fits the model with this ``config``.

        Raises:
            ConfigError: it was built for another model.
        """
