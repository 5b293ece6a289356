"""Provide the base class of policies whose scorers can imitate a saliency, such as the gradients of a dense model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retention.engine.gate import LayerView
from retention.engine.pass_values import PassValue
from retention.policies.bases.retention_policy import RetentionPolicy


class SaliencyScorers(RetentionPolicy):
    """Base class: scorers learn to rank the tokens as a given saliency does.

    A subclass sets ``scored`` in ``build`` and calls ``imitate_saliency`` in ``score``.

    Source: a policy that imitates the gradient saliency of a dense model was introduced by TR-BERT (Ye et al., NAACL
    2021). Differs: the loss compares whole rankings (ListNet) and is added in every step, instead of in a first part of
    the training.

    Args:
        **settings: see ``RetentionPolicy``.
    """

    _ranking_losses = PassValue[list[Tensor]](list)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._saliency: dict[int, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the saliency of the last batch out of copies."""
        return {**self.__dict__, "_saliency": {}}

    def set_saliency(self, saliency: dict[int, Tensor]) -> None:
        """Set the token importance that scorers imitate in the next passes; layer_idx -> [B, T] float >= 0."""
        self._saliency = saliency

    def imitate_saliency(self, scores: Tensor, view: LayerView) -> None:
        """Record the ranking loss of one gate; does nothing in evaluation mode or without a saliency.

        Args:
            scores: [B, N].
            view: input of the gate.
        """
        if self.training and view.layer_idx in self._saliency:
            saliency = self._saliency[view.layer_idx].gather(1, view.positions)
            self._ranking_losses.append(ranking_loss(scores, saliency, view.valid & ~view.protected))

    def saliency_loss(self) -> Tensor:
        """Compute the mean ranking loss of the last pass over the gates, scalar; 0 without saliency."""
        return torch.stack(self._ranking_losses).mean() if self._ranking_losses else torch.zeros(())


def ranking_loss(scores: Tensor, importance: Tensor, candidates: Tensor) -> Tensor:
    """Compute the ListNet loss between two rankings of the tokens of a sample.

    Cross-entropy between the distribution proportional to ``importance`` and the softmax of ``scores``.

    Args:
        scores: [B, N].
        importance: [B, N] >= 0, any scale.
        candidates: [B, N] bool, tokens that are ranked; a sample without candidates contributes 0.

    Returns:
        Scalar, mean over samples.
    """
    target = importance.masked_fill(~candidates, 0.0)
    target = target / target.sum(1, keepdim=True).clamp_min(1e-12)
    log_probs = torch.log_softmax(scores.masked_fill(~candidates, -1e4), dim=1)
    return -(target * log_probs).sum(1).mean()
