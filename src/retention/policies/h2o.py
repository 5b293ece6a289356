"""Heavy hitters by accumulated attention (H2O: Zhang et al., NeurIPS 2023, arXiv 2306.14048), on an encoder."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from retention.engine.gate import LayerView
from retention.policies.bases.retention_policy import RetentionPolicy, observed


class H2O(RetentionPolicy):
    """Keeps the tokens that have got most attention in all layers so far; nothing is learned.

    Training needs: none of its own; the encoder is trained on the shortened sequences.

    Differs from the paper: H2O evicts entries of a decoder's cache, per head, and accumulates over decoding steps; an
    encoder has no steps, so attention accumulates over its layers and a token leaves all heads at once. The window of
    recent tokens has no meaning where every token sees every other, so the whole budget goes to heavy hitters.

    Args:
        rho, schedule, slope, layers, name: see ``RetentionPolicy``.
    """

    observes: ClassVar[tuple[str, ...]] = ("attention",)

    def score(self, view: LayerView) -> Tensor:
        return observed(view.accumulated_attention)
