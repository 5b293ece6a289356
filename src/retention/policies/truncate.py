"""Truncation to the budget."""

from __future__ import annotations

from torch import Tensor

from retention.engine.gate import LayerView
from retention.policies.bases.retention_policy import RetentionPolicy


class Truncate(RetentionPolicy):
    """Keeps the first M tokens: what users do today when a text is too long."""

    def score(self, view: LayerView) -> Tensor:
        return -view.positions.float()
