"""Provide the data that passes between encoder, head and loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retention.engine.state import ForwardState

Batch = dict[str, Any]  # tensors; tasks that score text add lists of strings


@dataclass(frozen=True)
class Encoded:
    """Output of the encoder, as a head reads it.

    B sequences, T tokens before pruning, M tokens that the head sees, D hidden size.

    Attributes:
        hidden_states: [B, M, D]; M = T where dropped tokens are forwarded or nothing was removed.
        weights: [B, M] float in [0, 1]; 0 = padding, the product of the gates during soft gating.
        positions: [B, M] long, original positions.
        state: state of the forward pass, which knows what every gate did; None = no gate acted.
        gated_layers: 0-based layers after which the policy may remove tokens.
    """

    hidden_states: Tensor
    weights: Tensor
    positions: Tensor
    state: ForwardState | None = None
    gated_layers: tuple[int, ...] = ()

    def gates_passed(self, width: int) -> Tensor:
        """Return the number of gates that each input token passed, [B, width] long; soft gates count as passed.

        Args:
            width: T.
        """
        if self.state is None:
            return torch.zeros(len(self.positions), width, dtype=torch.long, device=self.positions.device)
        return self.state.report.depth(self.gated_layers, width)

    def survived(self, width: int) -> Tensor:
        """Return True for input tokens that every hard gate kept, [B, width] bool.

        Args:
            width: T.
        """
        if self.state is None:
            return torch.ones(len(self.positions), width, dtype=torch.bool, device=self.positions.device)
        return self.state.report.survived(width)

    def depth_ratio(self) -> Tensor:
        """Return the part of the encoder that each token of the head went through, [B, M] float in (0, 1].

        (1 + gates passed) / (1 + gates). A soft gate counts as far as it and those before it are open. Values on
        padding are not meaningful.
        """
        if self.state is None:
            return torch.ones_like(self.weights)
        passed = self.state.soft_depth()
        if passed is None:
            passed = self.gates_passed(self.state.width).float()
        ratio: Tensor = (1.0 + passed) / (1.0 + len(self.gated_layers))
        return ratio.gather(1, self.positions)

    def depth_weighted(self) -> Encoded:
        """Return a copy whose weights are multiplied by the depth ratio.

        Used by heads that read a mean: at a keep ratio of 10 %, nine of ten tokens leave after a layer or two and would
        dominate a plain mean. A dense model is not changed.
        """
        return replace(self, weights=self.weights * self.depth_ratio())


class ModelOutput(NamedTuple):
    """Output of a retention model.

    Attributes:
        logits: output of the head, [B, C] for classification.
        pooled: [B, D], the state that the logits are computed from; None where the head reads every token.
    """

    logits: Tensor
    pooled: Tensor | None
