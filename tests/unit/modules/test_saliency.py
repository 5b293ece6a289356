"""Gradient norms against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from retention.training.saliency import layer_saliency


def confidence_of(model: Any, batch: dict[str, Tensor]) -> Callable[[], Tensor]:
    """A scalar of the first and the second token that is not linear."""

    def confidence() -> Tensor:
        states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        return states[:, :2].tanh().sum(-1).log_softmax(-1).amax(-1).sum()

    return confidence


def finite_differences(model: Any, layer: int, confidence: Any, shape: tuple[int, ...], step: float = 1e-5) -> Tensor:
    """Norm of the central differences of the scalar in every token state after a layer, [B, T]."""
    slope = torch.zeros(shape, dtype=torch.float64)
    nudge = torch.zeros(shape, dtype=torch.float64)
    handle = model.encoder.layer[layer].register_forward_hook(lambda module, args, output: output + nudge)
    for place in range(slope.numel()):
        values = []
        for sign in (1.0, -1.0):
            nudge.view(-1)[place] = sign * step
            values.append(confidence())
        nudge.zero_()
        slope.view(-1)[place] = (values[0] - values[1]) / (2 * step)
    handle.remove()
    return slope.norm(dim=-1)


def test_norms_are_those_of_finite_differences(encoder: Any, batch_of: Any) -> None:
    torch.manual_seed(2)
    model = encoder(hidden_size=8).double().eval().requires_grad_(False)
    batch = batch_of(4, 3)
    confidence = confidence_of(model, batch)
    with torch.no_grad():
        expected = {layer: finite_differences(model, layer, confidence, (2, 4, 8)) for layer in (0, 1)}
    found = layer_saliency(model, (0, 1), confidence)
    for layer in (0, 1):
        torch.testing.assert_close(found[layer].double(), expected[layer], rtol=1e-4, atol=1e-7)
        assert found[layer][1, 3] == 0.0, "nothing rests on padding"
        assert (found[layer][0] > 1e-6).all()


def test_nothing_is_left_behind(encoder: Any, batch_of: Any) -> None:
    model = encoder().eval().requires_grad_(False)
    with torch.no_grad():  # as in a training step that asks its teacher
        layer_saliency(model, (0, 2), confidence_of(model, batch_of(5)))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in model.encoder.layer)


def test_after_the_last_layer_only_what_the_head_reads_counts(encoder: Any, batch_of: Any) -> None:
    model = encoder().eval().requires_grad_(False)
    found = layer_saliency(model, (2,), confidence_of(model, batch_of(5)))
    assert (found[2][0, :2] > 0).all() and (found[2][0, 2:] == 0).all()
