"""What the engine asks after a gated layer, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from retention.engine.report import ForwardReport


@dataclass(frozen=True)
class LayerView:
    """The tokens that leave one layer; N is the current length, original positions are kept.

    Attributes:
        layer_idx: 0-based index of the layer that has just run.
        hidden_states: [B, N, D].
        valid: [B, N] bool, True = real token.
        protected: [B, N] bool, True = must be kept; never padding.
        positions: [B, N] long, position in the original sequence.
        lengths: [B] long, real tokens of the sample before any removal.
        survival: [B, N] float in [0, 1], probability that soft gates let the token through so far; 0 on padding.
        weights: [B, N] float in [0, 1], product of the gates z so far; 0 on padding.
        input_ids: [B, T] long, the original sequence, or None if the model got embeddings.
    """

    layer_idx: int
    hidden_states: Tensor
    valid: Tensor
    protected: Tensor
    positions: Tensor
    lengths: Tensor
    survival: Tensor
    weights: Tensor
    input_ids: Tensor | None


@dataclass(frozen=True)
class Decision:
    """What a gate decides; ``keep_mask`` removes for real, ``log_gates`` weigh what stays.

    Attributes:
        keep_mask: [B, N] bool, True = goes on; None = nothing is removed.
        log_gates: [B, N] float <= 0, added to the attention logits of the token as a key in all later layers; None = 0.
        survival: [B, N] float, updated ``LayerView.survival``; None = unchanged.
    """

    keep_mask: Tensor | None = None
    log_gates: Tensor | None = None
    survival: Tensor | None = None


class Gate(Protocol):
    """Anything that decides after a layer which tokens go on."""

    def begin(self, report: ForwardReport) -> None:
        """A new forward pass starts; soft gates write their expectations into ``report``."""

    def decide(self, view: LayerView) -> Decision | None:
        """The decision after ``view.layer_idx``; None = everything goes on."""
