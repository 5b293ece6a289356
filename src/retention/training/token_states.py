"""Record the states of single tokens after every layer, and compute their distance to the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from retention.engine.layer_output import states_of
from retention.engine.retainer import Retainer
from retention.training.distillation import relative_errors


@dataclass(frozen=True)
class TokenStates:
    """States of the tokens after one layer.

    Attributes:
        hidden_states: [B, N, D].
        weights: [B, N] float in [0, 1], product of the gates before the layer; 0 on padding.
        positions: [B, N] long, original positions.
    """

    hidden_states: Tensor
    weights: Tensor
    positions: Tensor

    def detached(self) -> TokenStates:
        """Return a copy without a graph."""
        return replace(self, hidden_states=self.hidden_states.detach())


@contextmanager
def record_token_states(retainer: Retainer, *, enabled: bool = True) -> Iterator[list[TokenStates]]:
    """Record one forward pass of the retainer's encoder, one entry per layer in order; nothing unless ``enabled``."""
    recorded: list[TokenStates] = []

    def record(layer: Any, args: Any, output: Any) -> None:
        state = retainer.state
        weights = state.weights.detach().clamp_max(1.0)  # a token that others were merged into counts once
        recorded.append(TokenStates(states_of(output), weights, state.positions))

    # before the hooks of a retainer that is entered later, which remove tokens and mix states
    layers = retainer.adapter.layers(retainer.encoder) if enabled else ()
    handles = [layer.register_forward_hook(record, prepend=True) for layer in layers]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def token_state_loss(student: Sequence[TokenStates], teacher: Sequence[TokenStates]) -> Tensor:
    """Compute |student - teacher|^2 / |teacher|^2 of the state of each token after each layer it reaches, a scalar.

    Weighted mean over the tokens of a layer, then mean over layers, since few tokens reach the upper ones. The
    teacher's layers see every token. (Hidden-state distillation of TinyBERT, Jiao et al. 2020, arXiv 1909.10351,
    without its projection, since the widths are equal.)
    """
    losses = []
    for ours, full in zip(student, teacher, strict=True):
        targets = full.hidden_states.gather(1, ours.positions.unsqueeze(-1).expand_as(ours.hidden_states))
        errors = relative_errors(ours.hidden_states, targets)
        losses.append((ours.weights * errors).sum() / ours.weights.sum().clamp_min(1e-6))
    return torch.stack(losses).mean()
