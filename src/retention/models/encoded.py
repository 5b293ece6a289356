"""Provide the data that passes between encoder, head and loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retention.core.flops import BEFORE_FIRST_LAYER
from retention.engine.retainer import Retainer
from retention.engine.state import ForwardState

Batch = dict[str, Any]  # tensors; tasks that score text add lists of strings


@dataclass(frozen=True)
class Encoded:
    """Output of the encoder, as a head reads it.

    B sequences, T tokens before pruning, M tokens that the head sees, D hidden size.

    Attributes:
        hidden_states: [B, M, D]; M = T where dropped tokens are forwarded or nothing was removed.
        weights: [B, M] float; 0 = padding, the product of the gates in [0, 1] during soft gating, or the number of
            tokens that a merged token represents.
        positions: [B, M] long, original positions.
        state: state of the forward pass, which knows what every gate did; None = no gate acted.
        gated_layers: 0-based layers after which the policy may remove tokens; -1 = before layer 0.
    """

    hidden_states: Tensor
    weights: Tensor
    positions: Tensor
    state: ForwardState | None = None
    gated_layers: tuple[int, ...] = ()

    @classmethod
    def from_pass(cls, hidden_states: Tensor, attention_mask: Tensor, retainer: Retainer) -> Encoded:
        """Build the view of the forward pass that a retainer has just seen.

        Args:
            hidden_states: last hidden states of the encoder, [B, M, D].
            attention_mask: of the input, [B, T], 1 = real token.
            retainer: that the encoder ran in.
        """
        state = retainer.state
        if retainer.dropped == "cut":
            return cls(hidden_states, state.weights, state.positions, state, retainer.layers)
        positions = torch.arange(attention_mask.shape[1], device=attention_mask.device).expand_as(attention_mask)
        return cls(hidden_states, attention_mask.float(), positions, state, retainer.layers)

    def gates_passed(self, width: int) -> Tensor:
        """Return the number of gates that each input token passed, [B, width] long; soft gates count as passed.

        Args:
            width: T.
        """
        if self.state is None:
            return torch.zeros(self.positions.shape[0], width, dtype=torch.long, device=self.positions.device)
        return self.state.report.depth(self.gated_layers, width)

    def survived(self, width: int) -> Tensor:
        """Return True for input tokens that every hard gate kept, [B, width] bool.

        Args:
            width: T.
        """
        if self.state is None:
            return torch.ones(self.positions.shape[0], width, dtype=torch.bool, device=self.positions.device)
        return self.state.report.survived(width)

    def depth_ratio(self) -> Tensor:
        """Return the part of the encoder that each token of the head went through, [B, M] float in [0, 1].

        The gates divide the layers into parts. Without a gate before layer 0, every token goes through the first part:
        (1 + gates passed) / (1 + gates). With one, tokens that it removes go through none: gates passed / gates. A soft
        gate counts as far as it and those before it are open. Values on padding are not meaningful.
        """
        if self.state is None:
            return torch.ones_like(self.weights)
        passed = self.state.soft_depth()
        if passed is None:
            passed = self.gates_passed(self.state.width).float()
        always = 0.0 if BEFORE_FIRST_LAYER in self.gated_layers else 1.0
        ratio: Tensor = (always + passed) / (always + len(self.gated_layers))
        return ratio.gather(1, self.positions)

    def depth_weighted(self) -> Encoded:
        """Return a copy whose weights are multiplied by the depth ratio.

        Used by heads that read a mean: at a keep ratio of 10 %, nine of ten tokens leave after a layer or two and would
        dominate a plain mean. A dense model is not changed.
        """
        return replace(self, weights=self.weights * self.depth_ratio())

    def survivor_weighted(self) -> Encoded:
        """Return a copy whose weights are those of the last layer's tokens; 0 for removed tokens.

        A mean over it is the same with ``dropped=forward`` as with ``dropped=cut``. A dense model is not changed.
        """
        if self.state is None:
            return self
        remaining = self.state.weights
        empty = remaining.new_zeros(remaining.shape[0], self.state.width)
        weights = empty.scatter_add(1, self.state.positions, remaining)
        # unused slots repeat the position of a kept token
        return replace(self, weights=weights.gather(1, self.positions).masked_fill(self.weights == 0, 0.0))


class ModelOutput(NamedTuple):
    """Output of a retention model.

    Attributes:
        logits: output of the head, [B, C] for classification.
        pooled: [B, D], the state that the logits are computed from; None where the head reads every token.
    """

    logits: Tensor
    pooled: Tensor | None
