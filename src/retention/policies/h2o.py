"""Heavy hitters by accumulated attention (H2O: Zhang et al., NeurIPS 2023, arXiv 2306.14048), for encoders."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from retention.core.attention import received_attention
from retention.engine.gate import LayerView
from retention.policies.bases.retention_policy import RetentionPolicy, observed


class H2O(RetentionPolicy):
    """Keep the tokens that received the most attention in all layers so far; nothing is learned.

    Training: none of its own; the encoder is trained on the shortened sequences. Needs attention maps (eager
    attention).

    Source: H2O (arXiv 2306.14048).

    Differs from the paper: H2O evicts entries of a decoder's key-value cache, per head, and accumulates over decoding
    steps. An encoder has no steps, so attention accumulates over its layers and a token is removed from all heads at
    once. The window of recent tokens has no counterpart in bidirectional attention, so the whole budget goes to heavy
    hitters.
    """

    observes: ClassVar[tuple[str, ...]] = ("attention",)

    def reduce_attention(self, probabilities: Tensor, query_weights: Tensor, previous: Tensor | None = None) -> Tensor:
        """Accumulate the received attention over the layers, [B, N], without gradient."""
        received = received_attention(probabilities, query_weights).detach()
        return received if previous is None else previous + received

    def score(self, view: LayerView) -> Tensor:
        """Return the accumulated attention."""
        return observed(view.attention_statistics)
