"""Compute the gradient saliency of a dense teacher: how much its prediction depends on each token state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from retention.engine.adapters import adapter_for
from retention.engine.layer_output import states_of, with_states

Saliency = dict[int, Tensor]  # layer_idx -> [B, T] float >= 0


def layer_saliency(encoder: nn.Module, layers: Iterable[int], confidence: Callable[[], Tensor]) -> Saliency:
    """Compute the L2 norm of the gradient of the teacher's confidence with respect to every token state after layers.

    Args:
        encoder: of the teacher, its parameters frozen.
        layers: 0-based layer indices.
        confidence: runs the teacher; returns the scalar whose gradient is taken.

    Returns:
        layer_idx -> [B, T] float >= 0.
    """
    states: dict[int, Tensor] = {}
    modules = adapter_for(str(encoder.config.model_type)).layers(encoder)  # type: ignore[union-attr]
    handles = [modules[layer].register_forward_hook(_Capture(states, layer)) for layer in layers]
    try:
        with torch.enable_grad():
            scalar = confidence()
        gradients = torch.autograd.grad(scalar, [states[layer] for layer in layers])
    finally:
        for handle in handles:
            handle.remove()
    return {layer: grad.float().norm(dim=-1) for layer, grad in zip(layers, gradients, strict=True)}


class _Capture:
    """Forward hook that keeps the output states of a layer and makes them differentiable."""

    def __init__(self, captured: dict[int, Tensor], layer: int) -> None:
        self.captured = captured
        self.layer = layer

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        states = states_of(output)
        if not states.requires_grad:
            states = states.detach().requires_grad_()
        self.captured[self.layer] = states
        return with_states(output, states)
