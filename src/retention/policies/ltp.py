"""Learned Token Pruning: thresholds on attention (LTP: Kim et al., KDD 2022, arXiv 2107.00910)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.core.flops import EncoderShape
from retention.engine.gate import Decision, LayerView
from retention.errors import require_number
from retention.policies.bases.retention_policy import observed
from retention.policies.bases.soft_budget import SoftBudgetPolicy


class LTP(SoftBudgetPolicy):
    """Keep the tokens whose received attention reaches a threshold learned for each layer.

    Training: in the soft phase a token is gated by sigmoid((attention - threshold) / temperature); in the hard phase
    the thresholds are frozen except for a common offset that meets the budget. The number of kept tokens depends on the
    sample. Needs attention maps (eager attention).

    Source: LTP (arXiv 2107.00910).

    Differs from the paper: the weight of the loss on kept tokens comes from a dual instead of a search, so that a
    budget can be set; attention is summed over the queries instead of averaged, so that 1 is the average token at any
    length; soft gates are added to attention logits as logarithms instead of multiplying states.
    ``prune_at=after_attention`` removes tokens at the paper's location.

    Args:
        temperature: of the soft phase, > 0, in units of the average token's attention.
        rate: learning rate of the thresholds relative to ``policy_lr``, > 0.
        frozen: keep the thresholds as they are during hard pruning; False lets the optimizer's momentum move them on,
            as earlier versions did.
        **settings: see ``SoftBudgetPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    soft: ClassVar[bool] = True
    observes: ClassVar[tuple[str, ...]] = ("attention",)

    def __init__(self, *, temperature: float = 0.1, rate: float = 5.0, frozen: bool = True, **settings: Any) -> None:
        require_number("temperature", temperature, above=0, name="the temperature")
        require_number("rate", rate, above=0, name="the learning rate factor")
        super().__init__(**settings)
        self.temperature = temperature
        self.rate = rate
        self.frozen = frozen

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate one threshold per gate."""
        super().build(shape, name)
        self.raw_thresholds = nn.Parameter(torch.zeros(len(self.layers)))

    @property
    def thresholds(self) -> Tensor:
        """Return the thresholds, [G], in units of the average token's attention."""
        return self.rate * self.raw_thresholds + self.temperature * self.threshold_offset

    def score(self, view: LayerView) -> Tensor:
        """Return the received attention."""
        return observed(view.attention_statistics)

    def soft_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Gate each token by its distance to the threshold."""
        logits = (scores - self.thresholds[gate]) / self.temperature
        free = ~view.protected & view.valid
        survival = view.survival.float() * torch.where(view.protected, 1.0, torch.sigmoid(logits))
        expected = survival.sum(1)
        self.record_kept_count(view, expected)
        self.report.keep_mass[view.layer_idx] = expected.detach()
        return Decision(log_gates=torch.where(free, F.logsigmoid(logits), 0.0), survival=survival)

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        """Select by threshold, or by exact top-k if enabled."""
        if self.exact_topk:
            return super().select(gate, scores, view)
        return self.select_above(scores, self.thresholds[gate].detach(), view)
