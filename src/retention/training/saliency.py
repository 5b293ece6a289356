"""Compute the gradient saliency of a dense teacher: how much its prediction depends on each token state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from retention.core.flops import BEFORE_FIRST_LAYER
from retention.engine.adapters import adapter_for
from retention.engine.adapters.base import Arguments, argument, replace
from retention.engine.layer_output import states_of, with_states
from retention.engine.replacement import Handle

Saliency = dict[int, Tensor]  # layer_idx -> [B, T] float >= 0


def layer_saliency(encoder: nn.Module, layers: Iterable[int], confidence: Callable[[], Tensor]) -> Saliency:
    """Compute the L2 norm of the gradient of the teacher's confidence with respect to every token state at gates.

    Args:
        encoder: of the teacher, its parameters frozen.
        layers: 0-based indices of the layers whose output is taken; -1 = the input of layer 0.
        confidence: runs the teacher; returns the scalar whose gradient is taken, or several, [K], whose saliency is the
            root mean square of theirs.

    Returns:
        layer_idx -> [B, T] float >= 0.
    """
    states: dict[int, Tensor] = {}
    modules = adapter_for(str(encoder.config.model_type)).layers(encoder)  # type: ignore[union-attr]
    handles = [_captured(modules, layer, states) for layer in layers]
    try:
        with torch.enable_grad():
            scalars = confidence().reshape(-1)
            norms = _gradient_norms(scalars, [states[layer] for layer in layers])
    finally:
        for handle in handles:
            handle.remove()
    return dict(zip(layers, norms, strict=True))


def _gradient_norms(scalars: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    """Compute the norm of the gradient in each of the token states, root mean square over the scalars [K]."""
    norms: list[tuple[Tensor, ...]] = []
    for index, scalar in enumerate(scalars):
        gradients = torch.autograd.grad(scalar, states, retain_graph=index + 1 < len(scalars))
        norms.append(tuple(gradient.float().norm(dim=-1) for gradient in gradients))
    if len(norms) == 1:
        return list(norms[0])
    return [torch.stack(each).square().mean(0).sqrt() for each in zip(*norms, strict=True)]


def _captured(modules: Sequence[nn.Module], layer: int, states: dict[int, Tensor]) -> Handle:
    """Register the hook that captures the states after a layer, or before layer 0."""
    capture = _Capture(states, layer)
    if layer == BEFORE_FIRST_LAYER:
        return modules[0].register_forward_pre_hook(capture.input, with_kwargs=True)
    return modules[layer].register_forward_hook(capture.output)


class _Capture:
    """Forward hooks that keep the output or input states of a layer and make them differentiable."""

    def __init__(self, captured: dict[int, Tensor], layer: int) -> None:
        self.captured = captured
        self.layer = layer

    def output(self, module: nn.Module, args: Any, output: Any) -> Any:
        return with_states(output, self._keep(states_of(output)))

    def input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        states = self._keep(argument(module, (args, kwargs), "hidden_states"))
        return replace(module, (args, kwargs), hidden_states=states)

    def _keep(self, states: Tensor) -> Tensor:
        if not states.requires_grad:
            states = states.detach().requires_grad_()
        self.captured[self.layer] = states
        return states
