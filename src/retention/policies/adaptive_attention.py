"""Adaptive Retention whose scores start from the attention that tokens receive."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine.gate import LayerView
from retention.policies.adaptive import Adaptive
from retention.policies.bases.retention_policy import observed

_LEAST = 1e-4  # of the average token's attention


class AdaptiveAttention(Adaptive):
    """Keeps the tokens that a learned scorer and the attention they have just received rank highest together.

    score = scorer(H)_t + w_l log(attention received by t), with one learned weight w_l per gate that starts at 1: the
    ranking begins as that of ``attention_topk`` and is corrected by what the scorer learns. The attention carries no
    gradient to the encoder.

    Training needs: those of ``Adaptive``. Needs eager attention, in training and at test time, as every policy that
    reads attention maps does.

    Not in the paper, whose scorers read states alone.

    Args:
        settings: see ``Adaptive``.
    """

    observes: ClassVar[tuple[str, ...]] = ("attention",)

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        super().build(shape, name)
        self.attention_weights = nn.ParameterDict({str(layer): nn.Parameter(torch.ones(())) for layer in self.scored})

    def score(self, view: LayerView) -> Tensor:
        received = observed(view.received_attention).detach().float().clamp_min(_LEAST)
        weight: Tensor = self.attention_weights[str(view.layer_idx)]
        return super().score(view) + weight * received.log()

    def scorer_macs(self) -> dict[int, int]:
        return {layer: macs + 1 for layer, macs in super().scorer_macs().items()}
