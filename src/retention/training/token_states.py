"""States of single tokens after every layer, and how far they are from the teacher's."""

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
    """What one layer made of the tokens that reached it.

    Attributes:
        hidden_states: [B, N, D].
        weights: [B, N] float in [0, 1], how far the gates before the layer are open for the token; 0 on padding.
        positions: [B, N] long, original positions.
    """

    hidden_states: Tensor
    weights: Tensor
    positions: Tensor

    def detached(self) -> TokenStates:
        """The same without a graph."""
        return replace(self, hidden_states=self.hidden_states.detach())


@contextmanager
def recorded(retainer: Retainer, *, wanted: bool = True) -> Iterator[list[TokenStates]]:
    """Record one forward pass of the retainer's encoder: one entry per layer, in order; nothing unless ``wanted``."""
    found: list[TokenStates] = []

    def record(layer: Any, args: Any, output: Any) -> None:
        state = retainer.state
        weights = state.weights.detach().clamp_max(1.0)  # a token that others were merged into is one token
        found.append(TokenStates(states_of(output), weights, state.positions))

    # before the hooks of a retainer that is entered later, which remove tokens and mix states
    layers = retainer.adapter.layers(retainer.encoder) if wanted else ()
    handles = [layer.register_forward_hook(record, prepend=True) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def token_state_loss(student: Sequence[TokenStates], teacher: Sequence[TokenStates]) -> Tensor:
    """|pupil - teacher|^2 / |teacher|^2 of the states of each token after each layer that it reached, scalar.

    Mean over the tokens of a layer, by their weights, then over layers: few tokens reach the upper ones. The teacher's
    layers see every token. (Hidden-state distillation of TinyBERT, Jiao et al. 2020, arXiv 1909.10351, without its
    projection, since the widths are equal.)
    """
    losses = []
    for own, whole in zip(student, teacher, strict=True):
        wanted = whole.hidden_states.gather(1, own.positions.unsqueeze(-1).expand_as(own.hidden_states))
        errors = relative_errors(own.hidden_states, wanted)
        losses.append((own.weights * errors).sum() / own.weights.sum().clamp_min(1e-6))
    return torch.stack(losses).mean()
