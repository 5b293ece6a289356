"""Threshold pruning, the fourth ablation of Table 3 (paper, arXiv 2510.08798)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from retention.engine.gate import LayerView
from retention.errors import require_number
from retention.policies.adaptive import Adaptive


class Threshold(Adaptive):
    """Keep every token with p_t >= threshold instead of the top M; otherwise as ``Adaptive`` (paper, Fig. 1 [D]).

    The number of kept tokens depends on the sample, so the budget is met on average at best, which is the point of the
    ablation. Needs no attention maps.

    Differs from the paper: as ``Adaptive``.

    Args:
        threshold: keep probability, in (0, 1).
        **settings: see ``Adaptive``.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, *, threshold: float = 0.5, **settings: Any) -> None:
        require_number("threshold", threshold, above=0, below=1, name="the probability threshold")
        super().__init__(**settings)
        self.threshold = threshold

    @property
    def exact(self) -> bool:
        """Return False: the count depends on the sample."""
        return False

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        """Select the tokens whose keep probability reaches the threshold."""
        _, keep_probs = self._keep_probs(gate, scores, view.valid.float(), view)
        return self.select_above(keep_probs, self.threshold, view)
