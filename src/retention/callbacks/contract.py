"""What the callbacks ask of the module they watch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from pytorch_lightning import LightningModule

from retention.engine.report import ForwardReport

Batch = Mapping[str, Any]


class LagrangianPolicy(Protocol):
    """A policy as the callbacks see it."""

    @property
    def rho(self) -> float:
        """Final asked share of kept tokens, in (0, 1]."""

    def price(self) -> dict[int, float]:
        """layer_idx -> lambda >= 0; empty for a policy without a dual variable."""


class Watched(Protocol):
    """A module as the callbacks see it."""

    @property
    def last_report(self) -> ForwardReport | None:
        """Account of the latest forward pass."""

    @property
    def last_prediction_rows(self) -> list[dict[str, Any]]:
        """What the latest test said of each row."""

    @property
    def policy(self) -> LagrangianPolicy:
        """The retention policy in use."""

    @property
    def gated_layers(self) -> tuple[int, ...]:
        """Layers followed by a gate, ascending, 0-based; empty for the dense model."""

    @property
    def target_keep_ratio(self) -> float:
        """Share asked at this step of the annealing, in (0, 1]."""


def watched(module: LightningModule) -> Watched:
    """The module under the type the callbacks use."""
    return cast(Watched, module)
