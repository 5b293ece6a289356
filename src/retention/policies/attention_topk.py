"""Cascade top-k on received attention (SpAtten: Wang, Zhang and Han, HPCA 2021, arXiv 2012.09852)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from retention.engine.gate import LayerView
from retention.policies.bases.retention_policy import RetentionPolicy, observed


class AttentionTopK(RetentionPolicy):
    """Keep the tokens that receive the most attention in the layer that has just run; nothing is learned.

    Training: none of its own; the encoder is trained on the shortened sequences. Needs attention maps (eager
    attention).

    Source: SpAtten (arXiv 2012.09852).

    Differs from the paper: SpAtten accumulates attention over layers, which is ``H2O`` here; it also prunes heads and
    quantizes, in hardware. This is the per-layer form that later work compares with.
    """

    observes: ClassVar[tuple[str, ...]] = ("attention",)

    def score(self, view: LayerView) -> Tensor:
        """Return the received attention."""
        return observed(view.attention_statistics)
