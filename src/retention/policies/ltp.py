"""Learned Token Pruning: thresholds on attention (Kim et al., KDD 2022, arXiv 2107.00910)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.core.flops import EncoderShape
from retention.core.topk import threshold_mask
from retention.engine.gate import Decision, LayerView
from retention.errors import Checks
from retention.policies.bases.retention_policy import observed
from retention.policies.bases.soft_budget import SoftBudgetPolicy


class LTP(SoftBudgetPolicy):
    """Keeps the tokens whose received attention reaches a threshold learned for each layer.

    Training needs: a soft stage, in which a token is gated by sigmoid((attention - threshold) / temperature), then a
    hard stage with frozen thresholds, which is the removal phase here; only their common level moves, to meet the
    budget. The count follows the text.

    Differs from the paper: the weight of the pressure on kept tokens comes from a dual, so that a share can be asked
    for, instead of from a search; attention is summed, not averaged, over the queries, so that 1 is the average token
    at any length; soft gates enter as logarithms on attention logits instead of multiplying states.
    ``prune_at=after_attention`` lets tokens leave where the paper does.

    Args:
        temperature: of the soft stage, > 0, in units of the average token's attention.
        rate: thresholds learn at rate x ``policy_lr``, > 0.
        eta, augmented, strict, calibrate: see ``Pressured``.
        others: see ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    soft: ClassVar[bool] = True
    observes: ClassVar[tuple[str, ...]] = ("attention",)

    def __init__(self, *, temperature: float = 0.1, rate: float = 5.0, **settings: Any) -> None:
        checks = Checks()
        checks.require(temperature > 0, "temperature", f"must be > 0, got {temperature}")
        checks.require(rate > 0, "rate", f"must be > 0, got {rate}")
        checks.gather(lambda: SoftBudgetPolicy.check(**settings))
        checks.finish()
        super().__init__(**settings)
        self.temperature = temperature
        self.rate = rate

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        super().build(shape, name)
        self.raw_thresholds = nn.Parameter(torch.zeros(len(self.layers)))

    @property
    def thresholds(self) -> Tensor:
        """[G], in units of the average token's attention."""
        return self.rate * self.raw_thresholds + self.temperature * self.level

    def score(self, view: LayerView) -> Tensor:
        return observed(view.received_attention)

    def soft_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        logits = (scores - self.thresholds[gate]) / self.temperature
        shut = ~view.protected & view.valid
        survival = view.survival.float() * torch.where(view.protected, 1.0, torch.sigmoid(logits))
        mass = survival.sum(1)
        self.account(view, mass)
        self.report.keep_mass[view.layer_idx] = mass.detach()
        return Decision(log_gates=torch.where(shut, F.logsigmoid(logits), 0.0), survival=survival)

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        if self.exact_topk:
            return super().select(gate, scores, view)
        return threshold_mask(scores, self.thresholds[gate].detach(), view.valid, view.protected)
