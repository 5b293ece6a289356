"""Gradient saliency of a dense teacher: which token states its answer rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from retention.engine.adapters import adapter_for
from retention.engine.layer_output import states_of, with_states


def layer_saliency(encoder: nn.Module, layers: Iterable[int], confidence: Callable[[], Tensor]) -> Saliency:
    """L2 norm of the gradient of the teacher's answer with respect to every token state after some layers.

    Args:
        encoder: of the teacher, its parameters frozen.
        layers: 0-based.
        confidence: runs the teacher; returns the scalar whose gradient is taken.

    Returns:
        layer_idx -> [B, T] float >= 0.
    """
    kept: dict[int, Tensor] = {}
    modules = adapter_for(str(encoder.config.model_type)).layers(encoder)  # type: ignore[union-attr]
    handles = [modules[layer].register_forward_hook(_Capture(kept, layer)) for layer in layers]
    try:
        with torch.enable_grad():
            scalar = confidence()
        gradients = torch.autograd.grad(scalar, [kept[layer] for layer in layers])
    finally:
        for handle in handles:
            handle.remove()
    return {layer: grad.float().norm(dim=-1) for layer, grad in zip(layers, gradients, strict=True)}


Saliency = dict[int, Tensor]


class _Capture:
    """Keeps the states that leave a layer and makes them differentiable."""

    def __init__(self, kept: dict[int, Tensor], layer: int) -> None:
        self.kept = kept
        self.layer = layer

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        states = states_of(output)
        if not states.requires_grad:
            states = states.detach().requires_grad_()
        self.kept[self.layer] = states
        return with_states(output, states)
