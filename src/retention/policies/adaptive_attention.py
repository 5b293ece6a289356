"""Adaptive token retention whose scores start from the attention that tokens receive."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine.gate import LayerView
from retention.policies.adaptive import Adaptive
from retention.policies.bases.retention_policy import observed

_MIN_ATTENTION = 1e-4  # relative to the average token


class AdaptiveAttention(Adaptive):
    """Keep the tokens with the highest sum of a learned score and their log received attention.

    score = scorer(H)_t + w_l log(attention received by t), with one learned weight w_l per gate, initially 1. The
    ranking starts as that of ``AttentionTopK`` and the scorer learns to correct it. The attention carries no gradient
    to the encoder. Needs attention maps (eager attention), in training and at test time.

    Source: the variant ``Adaptive``.

    Differs from the paper (arXiv 2510.08798): as ``Adaptive``, and its scorers read hidden states only.

    Args:
        **settings: see ``Adaptive``.
    """

    observes: ClassVar[tuple[str, ...]] = ("attention",)

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate the scorers and the weights of the attention."""
        super().build(shape, name)
        self.attention_weights = nn.ParameterDict({str(layer): nn.Parameter(torch.ones(())) for layer in self.scored})

    def score(self, view: LayerView) -> Tensor:
        """Compute the learned score plus the weighted log attention."""
        received = observed(view.attention_statistics).detach().float().clamp_min(_MIN_ATTENTION)
        weight: Tensor = self.attention_weights[str(view.layer_idx)]
        return super().score(view) + weight * received.log()

    def scorer_macs(self) -> dict[int, int]:
        """Return the multiply-accumulates per token of the scorers and attention weights."""
        return {layer: macs + 1 for layer, macs in super().scorer_macs().items()}
