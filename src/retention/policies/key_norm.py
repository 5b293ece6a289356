"""Small key norms (Devoto et al., EMNLP 2024, arXiv 2406.11430), for encoders."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from retention.engine.gate import LayerView
from retention.policies.bases.retention_policy import RetentionPolicy, observed


class KeyNorm(RetentionPolicy):
    """Keep the tokens whose keys have the smallest L2 norm; nothing is learned.

    In decoders a small key norm goes along with a large share of later attention; in encoders this is open. Training:
    none of its own; the encoder is trained on the shortened sequences. Needs no attention maps.

    Source: arXiv 2406.11430.

    Differs from the paper: norms are averaged over heads, because a token is removed from all heads at once.
    """

    observes: ClassVar[tuple[str, ...]] = ("keys",)

    def score(self, view: LayerView) -> Tensor:
        """Return the negative key norms."""
        return -observed(view.key_norms)
