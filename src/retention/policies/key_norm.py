"""Small key norms (Devoto et al., EMNLP 2024, arXiv 2406.11430), on an encoder."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from retention.engine.gate import LayerView
from retention.policies.bases.retention_policy import RetentionPolicy, observed


class KeyNorm(RetentionPolicy):
    """Keeps the tokens whose keys have the smallest L2 norm; nothing is learned, and no attention map is needed.

    In decoders a small key norm goes with a large share of later attention; whether that holds in an encoder is what
    a run shows.

    Training needs: none of its own; the encoder is trained on the shortened sequences.

    Differs from the paper: norms are averaged over heads, because a token leaves all heads at once.

    Args:
        rho, schedule, slope, layers, name: see ``RetentionPolicy``.
    """

    observes: ClassVar[tuple[str, ...]] = ("keys",)

    def score(self, view: LayerView) -> Tensor:
        return -observed(view.key_norms)
