"""Transkimmer: a predictor per layer decides token by token (Guan et al., ACL 2022, arXiv 2205.07324)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.core.scorer import MLPScorer
from retention.core.topk import threshold_mask
from retention.engine.gate import Decision, LayerView
from retention.errors import require
from retention.policies.bases.soft_budget import SoftBudgetPolicy


class Transkimmer(SoftBudgetPolicy):
    """Keep the tokens that a small MLP per layer selects, each token on its own.

    Training: in the soft phase every decision is sampled with Gumbel noise and dropped tokens are removed at once; the
    probability of the decision carries a straight-through gradient. The hard phase and inference have no noise. The
    number of kept tokens depends on the sample. ``dropped=forward`` passes skimmed states to the head, as in the paper.
    Needs no attention maps.

    Source: Transkimmer (arXiv 2205.07324).

    Differs from the paper: the weight of the skim loss comes from a dual, so that a budget can be set; the keep ratio
    is relative to real tokens, not to the padded length; attention is normalized over the remaining tokens; noise ends
    with the soft phase, where the public code samples even at test time; then the offset of all thresholds is
    calibrated to the budget.

    Args:
        temperature: of the Gumbel-softmax, > 0.
        keep_bias: initial logit of keeping; a positive value starts near keep-all (10 in the paper, for longer
            training).
        **settings: see ``SoftBudgetPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    supports_spans: ClassVar[bool] = False  # every token is sampled by itself

    def __init__(self, *, temperature: float = 1.0, keep_bias: float = 3.0, **settings: Any) -> None:
        require(temperature > 0, "temperature", f"must be > 0, got {temperature}")
        super().__init__(**settings)
        self.temperature = temperature
        self.keep_bias = keep_bias

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate one predictor per gate."""
        super().build(shape, name)
        self.predictors = nn.ModuleDict(
            {str(layer): MLPScorer(shape.hidden_size, keep_bias=self.keep_bias) for layer in self.layers}
        )

    def score(self, view: LayerView) -> Tensor:
        """Compute the logits of keeping, minus the threshold offset."""
        scores: Tensor = self.predictors[str(view.layer_idx)](view.hidden_states)
        return scores.float() - self.temperature * self.threshold_offset

    def hard_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Keep the tokens with positive logits, with noise and straight-through gates in training."""
        if not self.training:
            return Decision(keep_mask=self.select(gate, scores, view))
        sampled = self.phase == "soft"
        if sampled:  # the difference of two Gumbel variables is logistic
            scores = scores + torch.logit(torch.rand_like(scores), eps=1e-6)
        keep_probs = torch.sigmoid(scores / self.temperature)
        keep_mask = self._positive(scores, view) if sampled else self.select(gate, scores, view)
        kept = keep_mask + torch.where(view.protected | ~view.valid, 0.0, keep_probs - keep_probs.detach())
        self.record_kept_count(view, kept.sum(1))
        self.record_losses(view, scores, kept)
        # The forward value is log 1 = 0; the gradient is that of the keep probability.
        return Decision(keep_mask=keep_mask, log_gates=torch.where(keep_mask, kept - kept.detach(), 0.0))

    def record_losses(self, view: LayerView, scores: Tensor, kept: Tensor) -> None:
        """Record further losses of a gate; does nothing by default, for subclasses to override.

        Args:
            view: input of the gate.
            scores: [B, N], including noise.
            kept: [B, N], 0 or 1 with the gradient of the keep probability.
        """

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        """Select the tokens with positive logits, or by exact top-k if enabled."""
        return super().select(gate, scores, view) if self.exact_topk else self._positive(scores, view)

    def scorer_macs(self) -> dict[int, int]:
        """Return the multiply-accumulates per token of the predictors."""
        return {int(layer): predictor.macs_per_token() for layer, predictor in self.predictors.items()}  # type: ignore[operator]

    @staticmethod
    def _positive(scores: Tensor, view: LayerView) -> Tensor:
        return threshold_mask(scores, 0.0, view.valid, view.protected)
