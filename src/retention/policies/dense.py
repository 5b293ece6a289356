"""No removal at all: the encoder as it is."""

from __future__ import annotations

from torch import Tensor

from retention.core.flops import EncoderShape
from retention.engine.gate import LayerView
from retention.policies.bases.retention_policy import RetentionPolicy


class Dense(RetentionPolicy):
    """Keeps everything; the reference that every other policy is measured against.

    Args:
        rho: must be 1; present so that every policy has the knob.

    Raises:
        ConfigError: ``rho`` is out of (0, 1].
    """

    def __init__(self, *, rho: float = 1.0) -> None:
        super().__init__(rho=rho, schedule="flat")
        self.rho = 1.0

    def resolve_layers(self, shape: EncoderShape, name: str) -> tuple[int, ...]:
        return ()

    def score(self, view: LayerView) -> Tensor:
        return view.valid.float()
