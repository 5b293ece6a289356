"""Tests of gradient saliency against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from retention.policies import Adaptive, Dense
from retention.training.distillation import Distillation
from retention.training.saliency import layer_saliency
from retention.training.teacher import Teacher


def confidence_of(model: Any, batch: dict[str, Tensor]) -> Callable[[], Tensor]:
    """Return a non-linear scalar function of the states of the first and second token."""

    def confidence() -> Tensor:
        states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        return states[:, :2].tanh().sum(-1).log_softmax(-1).amax(-1).sum()

    return confidence


def finite_differences(model: Any, layer: int, confidence: Any, shape: tuple[int, ...], step: float = 1e-5) -> Tensor:
    """Return the norm of the central differences of the scalar in every token state after a layer, [B, T]."""
    slope = torch.zeros(shape, dtype=torch.float64)
    shift = torch.zeros(shape, dtype=torch.float64)
    handle = model.encoder.layer[layer].register_forward_hook(lambda module, args, output: output + shift)
    for index in range(slope.numel()):
        values = []
        for sign in (1.0, -1.0):
            shift.view(-1)[index] = sign * step
            values.append(confidence())
        shift.zero_()
        slope.view(-1)[index] = (values[0] - values[1]) / (2 * step)
    handle.remove()
    return slope.norm(dim=-1)


def test_saliency_equals_finite_differences(tiny_bert: Any, make_batch: Any) -> None:
    torch.manual_seed(2)
    model = tiny_bert(hidden_size=8).double().eval().requires_grad_(False)
    batch = make_batch(4, 3)
    confidence = confidence_of(model, batch)
    with torch.no_grad():
        expected = {layer: finite_differences(model, layer, confidence, (2, 4, 8)) for layer in (0, 1)}
    saliency = layer_saliency(model, (0, 1), confidence)
    for layer in (0, 1):
        torch.testing.assert_close(saliency[layer].double(), expected[layer], rtol=1e-4, atol=1e-7)
        assert saliency[layer][1, 3] == 0.0, "padding has no saliency"
        assert (saliency[layer][0] > 1e-6).all()


def test_saliency_leaves_no_gradients_or_hooks(tiny_bert: Any, make_batch: Any) -> None:
    model = tiny_bert().eval().requires_grad_(False)
    with torch.no_grad():  # as in a training step that runs its teacher
        layer_saliency(model, (0, 2), confidence_of(model, make_batch(5)))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in model.encoder.layer)


def test_saliency_after_last_layer_is_zero_for_tokens_the_head_does_not_read(tiny_bert: Any, make_batch: Any) -> None:
    model = tiny_bert().eval().requires_grad_(False)
    saliency = layer_saliency(model, (2,), confidence_of(model, make_batch(5)))
    assert (saliency[2][0, :2] > 0).all() and (saliency[2][0, 2:] == 0).all()


def test_saliency_before_layer_0_is_the_gradient_of_the_embeddings(tiny_bert: Any, make_batch: Any) -> None:
    torch.manual_seed(2)
    model = tiny_bert(hidden_size=8).double().eval().requires_grad_(False)
    batch = make_batch(4, 3)
    confidence = confidence_of(model, batch)
    embeddings: list[Tensor] = []

    def differentiable(module: Any, args: Any, output: Tensor) -> Tensor:
        embeddings.append(output.detach().requires_grad_())
        return embeddings[0]

    handle = model.embeddings.register_forward_hook(differentiable)
    (expected,) = torch.autograd.grad(confidence(), embeddings)
    handle.remove()
    saliency = layer_saliency(model, (-1, 0), confidence)
    torch.testing.assert_close(saliency[-1].double(), expected.norm(dim=-1), rtol=1e-5, atol=1e-7)
    assert not torch.allclose(saliency[-1], saliency[0])
    assert not any(layer._forward_pre_hooks for layer in model.encoder.layer)


def test_shallower_student_has_the_teachers_embeddings_before_layer_0(
    make_module: Any, make_model: Any, make_batch: Any, tiny_bert: Any
) -> None:
    """Layers 1 and 2 of a teacher of three layers start the student; index -1 is no layer among them."""
    distill = Distillation(weight=0.5, saliency=1.0, teacher="teacher.ckpt")
    policy = Adaptive(rho=0.5, slope=0.5, layers=[-1, 0])
    module = make_module(policy, loaded=tiny_bert(num_hidden_layers=2), distill=distill)
    teacher, batch = Teacher(make_model(Dense(), loaded=tiny_bert())), make_batch(6, 4)
    module.set_teacher(teacher, layers=(1, 2))
    received: dict[int, Tensor] = {}
    module.policy.set_saliency = received.update
    module.objective._teacher_outputs(batch)
    expected = teacher.outputs(batch, saliency_layers=(-1, 1)).saliency
    assert set(received) == {-1, 0}
    assert torch.equal(received[-1], expected[-1]) and torch.equal(received[0], expected[1])
