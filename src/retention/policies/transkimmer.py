"""Transkimmer: a predictor per layer decides token by token (Guan et al., ACL 2022, arXiv 2205.07324)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.core.scorer import MLPScorer
from retention.core.topk import threshold_mask
from retention.engine.gate import Decision, LayerView
from retention.errors import Checks
from retention.policies.bases.soft_budget import SoftBudgetPolicy


class Transkimmer(SoftBudgetPolicy):
    """Keeps the tokens that a small MLP of each layer wants to keep.

    Training needs: in the soft phase every decision is drawn with Gumbel noise, and the tokens leave at once; the
    decision's probability carries a straight-through gradient. In the removal phase and at test time there is no noise.
    The count follows the text. ``dropped=forward`` hands skimmed states to the head, as the paper does.

    Differs from the paper: the weight of the skim loss comes from a dual, so that a share can be asked for; the kept
    share is one of real tokens, not of the padded length; attention is normalised over the tokens that are left;
    noise ends with the soft phase, where the public code draws even at test time; and then the level of all decisions
    is moved until the share is met.

    Args:
        temperature: of the Gumbel-softmax, > 0.
        keep_bias: initial logit of keeping; positive starts near "keep all" (10 in the paper, for longer training).
        eta, augmented, strict, calibrate: see ``Pressured``.
        others: see ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    groups: ClassVar[bool] = False  # every token is drawn by itself

    def __init__(self, *, temperature: float = 1.0, keep_bias: float = 3.0, **settings: Any) -> None:
        checks = Checks()
        checks.require(temperature > 0, "temperature", f"must be > 0, got {temperature}")
        checks.gather(lambda: SoftBudgetPolicy.check(**settings))
        checks.finish()
        super().__init__(**settings)
        self.temperature = temperature
        self.keep_bias = keep_bias

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        super().build(shape, name)
        self.predictors = nn.ModuleDict(
            {str(layer): MLPScorer(shape.hidden_size, keep_bias=self.keep_bias) for layer in self.layers}
        )

    def score(self, view: LayerView) -> Tensor:
        scores: Tensor = self.predictors[str(view.layer_idx)](view.hidden_states)
        return scores.float() - self.temperature * self.level

    def remove(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        if not self.training:
            return Decision(keep_mask=self.select(gate, scores, view))
        drawing = self.phase == "soft"
        if drawing:  # the difference of two Gumbel variables is logistic
            scores = scores + torch.logit(torch.rand_like(scores), eps=1e-6)
        keep_probs = torch.sigmoid(scores / self.temperature)
        keep_mask = self._above(scores, view) if drawing else self.select(gate, scores, view)
        kept = keep_mask + torch.where(view.protected | ~view.valid, 0.0, keep_probs - keep_probs.detach())
        self.account(view, kept.sum(1))
        self.observe_draw(view, scores, kept)
        # the forward value is log 1 = 0; the gradient is that of the keep probability
        return Decision(keep_mask=keep_mask, log_gates=torch.where(keep_mask, kept - kept.detach(), 0.0))

    def observe_draw(self, view: LayerView, scores: Tensor, kept: Tensor) -> None:
        """Room for losses of a subclass; ``kept`` [B, N] is 0 or 1 with the gradient of the keep probability."""

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        return super().select(gate, scores, view) if self.exact_topk else self._above(scores, view)

    def scorer_macs(self) -> dict[int, int]:
        return {int(layer): predictor.macs_per_token() for layer, predictor in self.predictors.items()}  # type: ignore[operator]

    @staticmethod
    def _above(scores: Tensor, view: LayerView) -> Tensor:
        return threshold_mask(scores, 0.0, view.valid, view.protected)
