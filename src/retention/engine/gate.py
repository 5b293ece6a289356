"""Define the interface between the engine and a gate: what the gate sees and what it decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from retention.core.topk import span_means
from retention.engine.report import ForwardReport

OBSERVABLE = ("attention", "keys")


@dataclass(frozen=True)
class LayerView:
    """Tokens at the output of one layer, or at the input of layer 0; N is the current length.

    Attributes:
        layer_idx: 0-based index of the layer that has just run; -1 before layer 0.
        hidden_states: [B, N, D]; before layer 0 the embeddings, its input.
        valid: [B, N] bool, True = real token.
        protected: [B, N] bool, True = must be kept; never padding.
        positions: [B, N] long, position in the original sequence.
        lengths: [B] long, real tokens of the sample before any removal.
        survival: [B, N] float in [0, 1], probability that soft gates kept the token so far; 0 on padding.
        weights: [B, N] float, product of the gates z so far; 0 on padding. In [0, 1], or the number of tokens that a
            merged or fused token represents.
        input_ids: [B, T] long, the original sequence, or None if the model got embeddings.
        spans: [B, N] long, original position at which the span of the token begins; the tokens of a span are neighbors
            that are kept or removed together. None = every token is its own span.
        attention_statistics: [B, ..., N], result of the gate's ``reduce_attention`` for this layer; None if the gate
            does not observe the attention.
        key_norms: [B, N] float, L2 norm of the token's key in this layer, mean over heads; None if not observed.
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
    attention_statistics: Tensor | None = None
    key_norms: Tensor | None = None

    def by_span(self, values: Tensor) -> Tensor:
        """Replace values [B, N] of unprotected tokens by the mean over their span; unchanged without spans."""
        return values if self.spans is None else span_means(values, self.spans, self.valid & ~self.protected)


@dataclass(frozen=True)
class Decision:
    """Decision of a gate: ``keep_mask`` removes tokens, ``log_gates`` weigh those that stay.

    Attributes:
        keep_mask: [B, N] bool, True = kept; None = nothing is removed.
        log_gates: [B, N] float, added to the attention logits of the token as a key in all later layers; None = 0. At
            most 0, except for merged or fused tokens, which count as several keys.
        survival: [B, N] float, updated ``LayerView.survival``; None = unchanged.
        hidden_states: [B, N, D], replace ``LayerView.hidden_states``; None = unchanged. Only kept tokens may change.
        merged_into: [B, N] long, index in [0, N) of the token that each token was merged into, its own for a token that
            was not. Where dropped tokens are forwarded, a merged token returns with the final state of that token. None
            = nothing was merged: a dropped token returns with its last state.
    """

    keep_mask: Tensor | None = None
    log_gates: Tensor | None = None
    survival: Tensor | None = None
    hidden_states: Tensor | None = None
    merged_into: Tensor | None = None


class Gate(Protocol):
    """Object that decides after a layer which tokens are kept, usually a retention policy.

    Two further attributes are optional:

    - ``observes``: tuple of names in ``OBSERVABLE``. ``attention`` fills ``LayerView.attention_statistics`` and needs
      eager attention, because fused kernels never form the probabilities; ``keys`` fills ``LayerView.key_norms``.
    - ``reduce_attention(probabilities, query_weights, previous)``: statistics [B, ..., N] of one layer's attention, see
      ``RetentionPolicy.reduce_attention``; ``retention.core.attention.received_attention`` by default.
    """

    def begin(self, report: ForwardReport) -> None:
        """Start a forward pass; soft gates write their expected counts into ``report``."""

    def decide(self, view: LayerView) -> Decision | None:
        """Decide after layer ``view.layer_idx`` (-1: before layer 0); None = every token is kept."""
