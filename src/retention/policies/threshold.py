"""Threshold pruning, the fourth ablation of Table 3."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from retention.core.topk import threshold_mask
from retention.engine.gate import LayerView
from retention.errors import Checks
from retention.policies.adaptive import Adaptive


class Threshold(Adaptive):
    """Adaptive Retention that keeps every token with p_t >= threshold instead of the top M (paper, Fig. 1 [D]).

    The count follows the text, so the budget is met on average at best: that is what the ablation shows.

    Args:
        threshold: in (0, 1).
        others: see ``Adaptive``.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, *, threshold: float = 0.5, **settings: Any) -> None:
        checks = Checks()
        message = f"the probability threshold must be in (0, 1), got {threshold}"
        checks.require(0.0 < threshold < 1.0, "threshold", message)
        checks.gather(lambda: Adaptive(**settings))
        checks.finish()
        super().__init__(**settings)
        self.threshold = threshold

    @property
    def exact(self) -> bool:
        return False

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        _, keep_probs = self._probabilities(gate, scores, view.valid.float(), view)
        return threshold_mask(keep_probs, self.threshold, view.valid, view.protected)
