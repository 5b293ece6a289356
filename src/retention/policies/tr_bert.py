"""TR-BERT: policy networks at two layers imitate the gradients of a dense model (Ye et al., NAACL 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.core.flops import EncoderShape
from retention.core.scorer import Scorer
from retention.engine.gate import Decision, LayerView
from retention.policies.bases.saliency_scorers import SaliencyScorers

_WIDTH = 32  # of the policy network's hidden layer


class TRBert(SaliencyScorers):
    """Keep the tokens that a small policy network ranks highest, at two layers.

    Training: the policy networks imitate the ranking of the tokens by the gradients of the dense model's answer
    (``distillation=saliency``). The keep probabilities of the kept tokens carry a straight-through gradient of the
    task. Tokens are removed from the first step on. Needs no attention maps.

    Source: TR-BERT (Ye, Lin, Huang and Sun: TR-BERT: Dynamic Token Reduction for Accelerating BERT Inference, NAACL
    2021, https://aclanthology.org/2021.naacl-main.463). It is the origin of scorers that imitate gradient saliency,
    and of real removal with restored tokens in BERT.

    Differs from the paper: the exact top-k of the budget is kept, where the paper keeps every token with a probability
    of at least 0.5 and holds the length by a penalty; the policy is trained by the ranking loss and the
    straight-through gradient throughout, where the paper imitates the saliency in the first half of the steps and then
    uses REINFORCE; the networks normalize the states first. Distillation of the dense model's logits is set for all
    policies alike (``distill.weight``).

    Args:
        rho: target keep ratio, see ``RetentionPolicy``; the mean over the two gates.
        schedule: see ``RetentionPolicy``.
        slope: of the linear schedule; by default the first gate keeps 1.5 rho and the second one 0.5 rho.
        layers: see ``RetentionPolicy``; None = before the second layer and before the middle, as in the paper.
        min_tokens: see ``RetentionPolicy``.
        name: see ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        rho: float,
        schedule: str | Sequence[float] = "linear",
        slope: float = 0.5,
        layers: Sequence[int] | None = None,
        min_tokens: int = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(rho=rho, schedule=schedule, slope=slope, layers=layers, min_tokens=min_tokens, name=name)

    def resolve_layers(self, shape: EncoderShape, name: str) -> tuple[int, ...]:
        """Return the gated layers: those requested, or the first one and the last one of the first half."""
        if self.requested_layers is not None:
            return super().resolve_layers(shape, name)
        return tuple(sorted({0, max(0, shape.num_layers // 2 - 1)}))

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate a policy network for every gate that removes tokens."""
        super().build(shape, name)
        self.scored = tuple(layer for layer, used in zip(self.layers, self.gates_in_use(), strict=True) if used)
        self.scorers = nn.ModuleDict({str(layer): PolicyNetwork(shape.hidden_size) for layer in self.scored})

    def score(self, view: LayerView) -> Tensor:
        """Compute the logits of keeping, and their ranking loss if a saliency is set."""
        scores: Tensor = self.scorers[str(view.layer_idx)](view.hidden_states).float()
        self.imitate_saliency(scores, view)
        return scores

    def hard_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Keep the top M tokens, with straight-through gates in training."""
        decision = super().hard_decision(gate, scores, view)
        if not self.training:
            return decision
        probs = torch.where(view.valid & ~view.protected, torch.sigmoid(scores), 0.0)
        # The forward value is log 1 = 0; the gradient is that of the keep probability.
        return Decision(keep_mask=decision.keep_mask, log_gates=probs - probs.detach())

    def scorer_macs(self) -> dict[int, int]:
        """Return the multiply-accumulates per token of the active policy networks."""
        active = [layer for layer, active in zip(self.layers, self.active, strict=True) if active]
        return {layer: self.scorers[str(layer)].macs_per_token() for layer in active}  # type: ignore[operator]


class PolicyNetwork(Scorer):
    """Network of TR-BERT: D to 32, GELU, 32 to 1.

    Args:
        hidden_size: D.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(hidden_size, _WIDTH)
        self.out = nn.Linear(_WIDTH, 1)

    def forward(self, hidden_states: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compute scores [B, N]; ``weights`` is not used."""
        scores: Tensor = self.out(F.gelu(self.hidden(self._normalize(hidden_states))))
        return scores.squeeze(-1)
