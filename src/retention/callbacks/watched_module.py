"""Interface that the callbacks need of the LightningModule they watch."""

from __future__ import annotations

from typing import Any, Protocol, cast

from pytorch_lightning import LightningModule
from torch import Tensor

from retention.engine.report import ForwardReport


class WatchedPolicy(Protocol):
    """Retention policy as the callbacks see it."""

    @property
    def rho(self) -> float:
        """Final target keep ratio, in (0, 1]."""

    def multipliers_by_layer(self) -> dict[int, float]:
        """Return layer_idx -> lambda >= 0; empty for a policy without dual variables."""


class WatchedModule(Protocol):
    """LightningModule as the callbacks see it."""

    @property
    def last_report(self) -> ForwardReport | None:
        """Report of the latest forward pass."""

    @property
    def last_prediction_rows(self) -> list[dict[str, Any]]:
        """Predictions of the latest test, one mapping per row."""

    @property
    def policy(self) -> WatchedPolicy:
        """Retention policy in use."""

    @property
    def gated_layers(self) -> tuple[int, ...]:
        """Layers after which tokens are removed, ascending, 0-based; empty for the dense model."""

    @property
    def target_keep_ratio(self) -> float:
        """Target keep ratio at the present step of the annealing, in (0, 1]."""

    def step_flops(self) -> Tensor:
        """Return the FLOPs of the last training step, [3]: student, teacher, dense reference."""


def as_watched(module: LightningModule) -> WatchedModule:
    """Cast a module to the interface that the callbacks use."""
    return cast(WatchedModule, module)
