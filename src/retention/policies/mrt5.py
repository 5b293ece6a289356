"""MrT5: a delete gate after one early layer (Kallini et al., ICLR 2025, arXiv 2410.20771)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.core.scorer import Scorer
from retention.engine.gate import Decision, LayerView
from retention.errors import require_number
from retention.policies.bases.saliency_scorers import SaliencyScorers
from retention.policies.bases.soft_budget import SoftBudgetPolicy


class MrT5(SaliencyScorers, SoftBudgetPolicy):
    """Keep the tokens that a linear delete gate after one early layer does not delete.

    Training: in the soft phase the gate G = -gate_scale sigmoid(-s), with s linear in the normalized states, is added
    to the attention logits of the token as a key in every later layer. In the hard phase and at inference tokens with G
    below -gate_scale / 2, that is s < 0, are removed. The number of kept tokens depends on the sample. Needs no
    attention maps.

    Source: MrT5 (arXiv 2410.20771), which had gates in the attention logits and real removal in batches before Adaptive
    Retention.

    Differs from the paper: a controller on the deletion rate is used there as well, but a PI controller of the weight
    of the gate loss; here it is the multiplier of an augmented Lagrangian, whose gradient has the same proportional and
    integral terms. Training ends with hard pruning and a calibrated threshold, where the paper deletes softly until
    inference. Protected tokens are never deleted; the attention has the plain softmax. With ``dropped=forward`` the
    gates also blend the states of later layers, so that soft gates agree with removal. The gate sits after a quarter of
    the layers (after the third of twelve in the paper) of any encoder family, not only of ByT5.

    Args:
        gate_scale: largest amount that the gate takes from an attention logit, > 0 (30 in the paper).
        keep_bias: initial s; a positive value starts near keep-all.
        **settings: see ``SoftBudgetPolicy``. ``layers`` None = one gate after a quarter of the layers.

    Raises:
        ConfigError: a setting is out of range.
    """

    soft: ClassVar[bool] = True

    def __init__(self, *, gate_scale: float = 30.0, keep_bias: float = 5.0, **settings: Any) -> None:
        require_number("gate_scale", gate_scale, above=0, name="the scale of the gates")
        require_number("keep_bias", keep_bias, low=-100, high=100, name="the initial score")
        super().__init__(**settings)
        self.gate_scale = gate_scale
        self.keep_bias = keep_bias

    def resolve_layers(self, shape: EncoderShape, name: str) -> tuple[int, ...]:
        """Return the gated layers: those requested, or the last one of the first quarter."""
        if self.requested_layers is not None:
            return super().resolve_layers(shape, name)
        return (max(0, round(shape.num_layers / 4) - 1),)

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate the delete gate."""
        super().build(shape, name)
        self.scored = self.layers
        self.delete_gates = nn.ModuleDict(
            {str(layer): DeleteGate(shape.hidden_size, keep_bias=self.keep_bias) for layer in self.layers}
        )

    def score(self, view: LayerView) -> Tensor:
        """Compute s, minus the threshold offset."""
        scores: Tensor = self.delete_gates[str(view.layer_idx)](view.hidden_states).float() - self.threshold_offset
        self.imitate_saliency(scores, view)
        return scores

    def soft_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Add the gate to the attention logits of every token."""
        survival = view.survival.float() * torch.where(view.protected, 1.0, torch.sigmoid(scores))
        expected = survival.sum(1)
        self.record_kept_count(view, expected)
        self.report.keep_mass[view.layer_idx] = expected.detach()
        return Decision(log_gates=self._gates(scores, view), survival=survival)

    def hard_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Remove the tokens with negative scores, with straight-through gates in training."""
        keep_mask = self.select(gate, scores, view)
        if not self.training:
            return Decision(keep_mask=keep_mask)
        free = view.valid & ~view.protected
        probs = torch.where(free, torch.sigmoid(scores), 0.0)
        self.record_kept_count(view, (keep_mask + probs - probs.detach()).sum(1))
        gates = self._gates(scores, view)
        return Decision(keep_mask=keep_mask, log_gates=gates - gates.detach())

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        """Select the tokens with positive scores, or by exact top-k if enabled."""
        if self.exact_topk:
            return super().select(gate, scores, view)
        return self.select_above(scores, 0.0, view)

    def scorer_macs(self) -> dict[int, int]:
        """Return the multiply-accumulates per token of the delete gate."""
        return {int(layer): gate.macs_per_token() for layer, gate in self.delete_gates.items()}  # type: ignore[operator]

    def _gates(self, scores: Tensor, view: LayerView) -> Tensor:
        return torch.where(view.valid & ~view.protected, -self.gate_scale * torch.sigmoid(-scores), 0.0)


class DeleteGate(Scorer):
    """Delete gate of MrT5: LayerNorm, D to 1.

    Args:
        hidden_size: D.
        keep_bias: initial output bias.
    """

    def __init__(self, hidden_size: int, *, keep_bias: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.out = nn.Linear(hidden_size, 1)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.constant_(self.out.bias, keep_bias)

    def forward(self, hidden_states: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compute scores [B, N]; ``weights`` is not used."""
        scores: Tensor = self.out(self.norm(hidden_states))
        return scores.squeeze(-1)
