"""Cascade top-k on received attention (SpAtten: Wang, Zhang and Han, HPCA 2021, arXiv 2012.09852)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from retention.engine.gate import LayerView
from retention.policies.bases.retention_policy import RetentionPolicy, observed


class AttentionTopK(RetentionPolicy):
    """Keeps the tokens that get most attention in the layer that has just run; nothing is learned.

    Training needs: none of its own; the encoder is trained on the shortened sequences.

    Differs from the paper: SpAtten adds attention up over layers, which is ``h2o`` here; it also prunes heads and
    quantises, in hardware. This is the per-layer form that later work compares with.

    Args:
        rho, schedule, slope, layers, name: see ``RetentionPolicy``.
    """

    observes: ClassVar[tuple[str, ...]] = ("attention",)

    def score(self, view: LayerView) -> Tensor:
        return observed(view.received_attention)
