"""Truncation to the budget, the common baseline for long inputs."""

from __future__ import annotations

from torch import Tensor

from retention.engine.gate import LayerView
from retention.policies.bases.retention_policy import RetentionPolicy


class Truncate(RetentionPolicy):
    """Keep the first M tokens; nothing is learned. Needs no attention maps."""

    def score(self, view: LayerView) -> Tensor:
        """Return the negative positions."""
        return -view.positions.float()
