"""Transkimmer: a predictor per layer decides token by token (Guan et al., ACL 2022, arXiv 2205.07324)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.core.flops import EncoderShape
from retention.core.scorer import MLPScorer, Scorer
from retention.engine.gate import Decision, LayerView
from retention.errors import require, require_number
from retention.policies.bases.saliency_scorers import SaliencyScorers
from retention.policies.bases.soft_budget import SoftBudgetPolicy

PREDICTORS = ("layer_norm", "mlp")


class Transkimmer(SaliencyScorers, SoftBudgetPolicy):
    """Keep the tokens that a small network per layer selects, each token on its own.

    Training: in the soft phase each token gets a relaxed gate, a sigmoid of its logit with Gumbel noise, which acts on
    its attention logits and its states in every later layer. Nothing is removed, so tokens that would be dropped have a
    gradient too. In the hard phase and at inference tokens with negative logits are removed, without noise. The number
    of kept tokens depends on the sample. ``dropped=forward`` passes skimmed states to the head, as in the paper. Needs
    no attention maps.

    Source: Transkimmer (arXiv 2205.07324).

    Differs from the paper: the weight of the skim loss comes from a dual, so that a budget can be set; the loss counts
    keep probabilities relative to real tokens, not sampled decisions relative to the padded length; gates of the soft
    phase are relaxed and enter the attention before its normalization, where the paper multiplies attention
    probabilities by a straight-through 0 or 1; noise ends with the soft phase, where the public code samples even at
    test time; then the offset of all thresholds is calibrated to the budget; there is no gate before the first layer;
    the predictor has one output, the difference of the paper's two, and starts at logit 3 instead of 10, for shorter
    training; it learns at ``optimizer.policy_lr``, where the paper has one learning rate for all parameters.

    Args:
        temperature: of the Gumbel-softmax, > 0.
        keep_bias: initial logit of keeping; a positive value starts near keep-all.
        predictor: ``layer_norm`` is the paper's network: LayerNorm, D to D, LayerNorm, GELU, D to 1. ``mlp`` has half
            the width, ReLU and no second norm, as in earlier versions; their checkpoints are recognized.
        soft_gates: gate every token in the soft phase; False removes tokens by sampled decisions at once, as earlier
            versions did, so that dropped tokens have no gradient.
        **settings: see ``SoftBudgetPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    soft: ClassVar[bool] = True
    supports_spans: ClassVar[bool] = False  # every token is sampled by itself

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        keep_bias: float = 3.0,
        predictor: str = "layer_norm",
        soft_gates: bool = True,
        **settings: Any,
    ) -> None:
        require_number("temperature", temperature, above=0, name="the temperature")
        require_number("keep_bias", keep_bias, low=-100, high=100, name="the initial score")
        require(predictor in PREDICTORS, "predictor", f"must be one of {', '.join(PREDICTORS)}, got {predictor!r}")
        super().__init__(**settings)
        self.temperature = temperature
        self.keep_bias = keep_bias
        self.predictor = predictor
        self.soft_gates = soft_gates
        self.register_load_state_dict_pre_hook(_build_old_predictors)  # type: ignore[no-untyped-call]

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate one predictor per gate."""
        super().build(shape, name)
        self.scored = self.layers
        self.hidden_size = shape.hidden_size
        self.build_predictors()

    def build_predictors(self) -> None:
        """Allocate the predictors that ``predictor`` names."""
        network = SkimPredictor if self.predictor == "layer_norm" else MLPScorer
        self.predictors = nn.ModuleDict(
            {str(layer): network(self.hidden_size, keep_bias=self.keep_bias) for layer in self.layers}
        )

    def score(self, view: LayerView) -> Tensor:
        """Compute the logits of keeping, minus the threshold offset."""
        scores: Tensor = self.predictors[str(view.layer_idx)](view.hidden_states)
        logits = scores.float() - self.temperature * self.threshold_offset
        self.imitate_saliency(logits, view)
        return logits

    def soft_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Gate every token by a relaxed sample of its decision."""
        noisy = scores + torch.logit(torch.rand_like(scores), eps=1e-6)  # the difference of two Gumbel variables
        if not self.soft_gates:
            return self._remove(noisy, self.select_above(noisy, 0.0, view), view)
        free = view.valid & ~view.protected
        log_gates = torch.where(free, F.logsigmoid(noisy / self.temperature), 0.0)
        survival = view.survival.float() * torch.where(view.protected, 1.0, torch.sigmoid(scores))
        expected = survival.sum(1)
        self.record_kept_count(view, expected)
        self.record_losses(view, noisy, view.weights.float() * log_gates.exp())
        self.report.keep_mass[view.layer_idx] = expected.detach()
        return Decision(log_gates=log_gates, survival=survival)

    def hard_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Keep the tokens with positive logits, with straight-through gates in training."""
        keep_mask = self.select(gate, scores, view)
        return self._remove(scores, keep_mask, view) if self.training else Decision(keep_mask=keep_mask)

    def record_losses(self, view: LayerView, scores: Tensor, kept: Tensor) -> None:
        """Record further losses of a gate; does nothing by default, for subclasses to override.

        Args:
            view: input of the gate.
            scores: [B, N], including noise.
            kept: [B, N] in [0, 1], product of the gates so far; 0 or 1 in the hard phase, with the gradient of the keep
                probability.
        """

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        """Select the tokens with positive logits, or by exact top-k if enabled."""
        return super().select(gate, scores, view) if self.exact_topk else self.select_above(scores, 0.0, view)

    def scorer_macs(self) -> dict[int, int]:
        """Return the multiply-accumulates per token of the predictors."""
        return {int(layer): predictor.macs_per_token() for layer, predictor in self.predictors.items()}  # type: ignore[operator]

    def _remove(self, scores: Tensor, keep_mask: Tensor, view: LayerView) -> Decision:
        """Remove tokens in training; only kept tokens get a gradient of the task."""
        keep_probs = torch.sigmoid(scores / self.temperature)
        kept = keep_mask + torch.where(view.protected | ~view.valid, 0.0, keep_probs - keep_probs.detach())
        self.record_kept_count(view, kept.sum(1))
        self.record_losses(view, scores, kept)
        # The forward value is log 1 = 0; the gradient is that of the keep probability.
        return Decision(keep_mask=keep_mask, log_gates=torch.where(keep_mask, kept - kept.detach(), 0.0))


class SkimPredictor(Scorer):
    """Network of Transkimmer: LayerNorm, D to D, LayerNorm, GELU, D to 1.

    Args:
        hidden_size: D.
        keep_bias: initial output bias.
    """

    def __init__(self, hidden_size: int, *, keep_bias: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.hidden_norm = nn.LayerNorm(hidden_size)
        self.out = nn.Linear(hidden_size, 1)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.constant_(self.out.bias, keep_bias)

    def forward(self, hidden_states: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compute scores [B, N]; ``weights`` is not used."""
        scores: Tensor = self.out(F.gelu(self.hidden_norm(self.hidden(self.norm(hidden_states)))))
        return scores.squeeze(-1)


def _build_old_predictors(policy: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Rebuild the predictors for a checkpoint of an earlier version, which holds those of ``predictor=mlp``."""
    keys = [key for key in state_dict if key.startswith(f"{prefix}predictors.")]
    if isinstance(policy, Transkimmer) and policy.predictor != "mlp" and any(".inner." in key for key in keys):
        policy.predictor = "mlp"
        policy.constructor_settings = {**(policy.constructor_settings or {}), "predictor": "mlp"}
        device = policy.threshold_offset.device
        policy.build_predictors()
        policy.predictors.to(device)
