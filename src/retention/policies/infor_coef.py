"""Infor-Coef: Transkimmer's predictor under information-bottleneck terms (Tan, arXiv 2305.12458)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.engine.gate import LayerView
from retention.engine.report import ForwardReport
from retention.errors import Checks
from retention.policies.transkimmer import Transkimmer


class InforCoef(Transkimmer):
    """Keeps the tokens that a small MLP of each layer wants to keep, at a price per unit of what they carry.

    Training needs: those of ``transkimmer``, and two terms per gate: the Frobenius norm of the states that are kept,
    mean over samples, and the entropy of the keep probabilities, mean over free tokens, which ends in decisions that
    are sure.

    Differs from the paper: it prunes heads and feed-forward units as well (CoFi), which is left out, so its published
    FLOPs do not apply; and a dual on the kept share is added, so that a share can be asked for.

    Args:
        norm: weight of the norm term, >= 0.
        entropy: weight of the entropy term, >= 0.
        temperature, keep_bias: see ``Transkimmer``.
        others: see ``Pressured`` and ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, *, norm: float = 4e-4, entropy: float = 4e-4, **settings: Any) -> None:
        checks = Checks()
        checks.require(norm >= 0, "norm", f"must be >= 0, got {norm}")
        checks.require(entropy >= 0, "entropy", f"must be >= 0, got {entropy}")
        checks.gather(lambda: Transkimmer.check(**settings))
        checks.finish()
        super().__init__(**settings)
        self.norm = norm
        self.entropy = entropy
        self._terms: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_terms": []}

    def begin(self, report: ForwardReport) -> None:
        super().begin(report)
        self._terms = []

    def observe_draw(self, view: LayerView, scores: Tensor, kept: Tensor) -> None:
        energy = (kept * view.hidden_states.float().square().sum(-1)).sum(1)
        free = view.valid & ~view.protected
        logits = scores / self.temperature
        # H(p) = -p log p - (1 - p) log(1 - p) with p = sigmoid(logits)
        entropy = -(torch.sigmoid(logits) * F.logsigmoid(logits) + torch.sigmoid(-logits) * F.logsigmoid(-logits))
        mean_entropy = (entropy * free).sum() / free.sum().clamp_min(1)
        self._terms.append(self.norm * energy.clamp_min(1e-12).sqrt().mean() + self.entropy * mean_entropy)

    def budget_loss(self) -> Tensor:
        loss = super().budget_loss()
        return loss + torch.stack(self._terms).sum() if self._terms else loss
