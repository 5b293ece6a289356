"""Dense baseline: the encoder without removal."""

from __future__ import annotations

from torch import Tensor

from retention.core.flops import EncoderShape
from retention.engine.gate import LayerView
from retention.policies.bases.retention_policy import RetentionPolicy


class Dense(RetentionPolicy):
    """Keep every token; the reference for all other policies. Needs no attention maps.

    Args:
        rho: must be in (0, 1] and has no effect; present so that every policy accepts it.

    Raises:
        ConfigError: ``rho`` is out of (0, 1].
    """

    def __init__(self, *, rho: float = 1.0) -> None:
        super().__init__(rho=rho, schedule="flat")
        self.rho = 1.0

    def resolve_layers(self, shape: EncoderShape, name: str) -> tuple[int, ...]:
        """Return no layers."""
        return ()

    def score(self, view: LayerView) -> Tensor:
        """Return equal scores; never used, as no layer is gated."""
        return view.valid.float()
