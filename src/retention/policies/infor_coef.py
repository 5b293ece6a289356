"""Infor-Coef: Transkimmer's predictor with information-bottleneck losses (Tan, arXiv 2305.12458)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from retention.engine.gate import LayerView
from retention.engine.pass_values import PassValue
from retention.errors import require_number
from retention.policies.transkimmer import Transkimmer


class InforCoef(Transkimmer):
    """Keep the tokens that a small network per layer selects, with a penalty on the information they carry.

    Training: as ``Transkimmer``, with two more losses per gate: the Frobenius norm of the gated states, mean over
    samples, and the entropy of the keep probabilities, mean over unprotected tokens, which makes decisions confident.
    Needs no attention maps.

    Source: Infor-Coef (arXiv 2305.12458).

    Differs from the paper: it also prunes heads and feed-forward dimensions (CoFi), which is left out, so its published
    FLOPs do not apply; a dual on the keep ratio is added, so that a budget can be set; the gates are those of
    ``Transkimmer``, whose differences apply here too.

    Args:
        norm: weight of the norm loss, >= 0.
        entropy: weight of the entropy loss, >= 0.
        **settings: see ``Transkimmer``.

    Raises:
        ConfigError: a setting is out of range.
    """

    _losses = PassValue[list[Tensor]](list)

    def __init__(self, *, norm: float = 4e-4, entropy: float = 4e-4, **settings: Any) -> None:
        require_number("norm", norm, low=0, name="the weight of the norm term")
        require_number("entropy", entropy, low=0, name="the weight of the entropy term")
        super().__init__(**settings)
        self.norm = norm
        self.entropy = entropy

    def record_losses(self, view: LayerView, scores: Tensor, kept: Tensor) -> None:
        """Record the norm and entropy losses of one gate."""
        energy = (kept * view.hidden_states.float().square().sum(-1)).sum(1)
        free = view.valid & ~view.protected
        logits = scores / self.temperature
        # H(p) = -p log p - (1 - p) log(1 - p) with p = sigmoid(logits)
        entropy = -(torch.sigmoid(logits) * F.logsigmoid(logits) + torch.sigmoid(-logits) * F.logsigmoid(-logits))
        mean_entropy = (entropy * free).sum() / free.sum().clamp_min(1)
        self._losses.append(self.norm * energy.clamp_min(1e-12).sqrt().mean() + self.entropy * mean_entropy)

    def budget_loss(self) -> Tensor:
        """Compute the Lagrangian term plus the norm and entropy losses of the last pass, scalar."""
        loss = super().budget_loss()
        return loss + torch.stack(self._losses).sum() if self._losses else loss
