"""What the engine asks after a gated layer, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from retention.core.topk import span_means_over
from retention.engine.report import ForwardReport

OBSERVABLE = ("attention", "keys")


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
        weights: [B, N] float, product of the gates z so far; 0 on padding. In [0, 1], or the number of tokens that one
            stands for where tokens were merged.
        input_ids: [B, T] long, the original sequence, or None if the model got embeddings.
        spans: [B, N] long, position in the original sequence where the unit of the token begins; the tokens of a unit
            are neighbours that stay or go as one. None = every token by itself.
        received_attention: [B, N] float >= 0, attention that the token got as a key in this layer, mean over the heads,
            sum over the queries, each weighed by its own gates: 1 on average, 0 on padding; None if not observed.
        accumulated_attention: [B, N] float, sum of the same over all layers so far, detached; None if not observed.
        key_norms: [B, N] float, L2 norm of the token's key in this layer, mean over the heads; None if not observed.
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
    spans: Tensor | None = None
    received_attention: Tensor | None = None
    accumulated_attention: Tensor | None = None
    key_norms: Tensor | None = None

    def by_span(self, values: Tensor) -> Tensor:
        """Values [B, N] with the mean of its unprotected tokens for all tokens of a unit; as they are without units."""
        return values if self.spans is None else span_means_over(values, self.spans, self.valid & ~self.protected)


@dataclass(frozen=True)
class Decision:
    """What a gate decides; ``keep_mask`` removes for real, ``log_gates`` weigh what stays.

    Attributes:
        keep_mask: [B, N] bool, True = goes on; None = nothing is removed.
        log_gates: [B, N] float, added to the attention logits of the token as a key in all later layers; None = 0. At
            most 0, but for merged tokens: those count as many.
        survival: [B, N] float, updated ``LayerView.survival``; None = unchanged.
        hidden_states: [B, N, D], states that take the place of ``LayerView.hidden_states``; None = unchanged. Only
            tokens that go on may change.
    """

    keep_mask: Tensor | None = None
    log_gates: Tensor | None = None
    survival: Tensor | None = None
    hidden_states: Tensor | None = None


class Gate(Protocol):
    """Anything that decides after a layer which tokens go on.

    A gate may have an attribute ``observes``, a tuple of names in ``OBSERVABLE``: ``attention`` fills
    ``LayerView.received_attention`` and ``accumulated_attention`` and needs eager attention, because the fused kernels
    never form the probabilities; ``keys`` fills ``key_norms``.
    """

    def begin(self, report: ForwardReport) -> None:
        """A new forward pass starts; soft gates write their expectations into ``report``."""

    def decide(self, view: LayerView) -> Decision | None:
        """The decision after ``view.layer_idx``; None = everything goes on."""
