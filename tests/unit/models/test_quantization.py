"""Tests of INT8 layers: close to float, with one scale per channel, and together with token removal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retention import Adaptive, RetentionEncoder
from retention.errors import ConfigError
from retention.models.quantization import quantize_int8

BATCH = {
    "input_ids": torch.arange(4, 44).view(2, 20),
    "attention_mask": torch.tensor([[1] * 20, [1] * 9 + [0] * 11]),
}


def test_states_are_close_to_float_and_the_model_is_not_changed(tiny_bert: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = tiny_bert(initializer_range=0.3).eval()
    with torch.no_grad():
        before = model(**BATCH).last_hidden_state
        quantized = quantize_int8(model)(**BATCH).last_hidden_state
        after = model(**BATCH).last_hidden_state
    assert torch.equal(after, before)
    assert F.cosine_similarity(quantized, before, dim=-1).min() > 0.98
    assert not torch.allclose(quantized, before, atol=1e-6)  # control: something was quantized


def test_every_channel_has_its_scale(tiny_bert: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = tiny_bert().eval()
    projection = model.encoder.layer[0].intermediate.dense
    with torch.no_grad():
        projection.weight[0] *= 1000.0  # one scale per tensor would round all other channels to 0
    weight: Any = quantize_int8(model).encoder.layer[0].intermediate.dense.weight()
    assert weight.qscheme() == torch.per_channel_affine
    error = (weight.dequantize() - projection.weight)[1:].abs().max()
    coarse = torch.quantize_per_tensor(
        projection.weight, float(projection.weight.detach().abs().max()) / 127, 0, torch.qint8
    )
    assert error < 0.01 * projection.weight[1:].abs().max()
    assert (coarse.dequantize() - projection.weight)[1:].abs().max() > 10 * error  # control: per tensor


def test_removal_works_on_quantized_layers_and_scorers_stay_float(tiny_bert: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    policy = Adaptive(rho=0.4).eval()
    model = RetentionEncoder(tiny_bert(initializer_range=0.3), policy).eval()
    quantized = quantize_int8(model)
    with torch.no_grad():
        expected, result = model(**BATCH), quantized(**BATCH)
    kept = [{layer: counts.tolist() for layer, counts in each.report.kept.items()} for each in (model, quantized)]
    assert kept[0] == kept[1] and kept[0][0][0] < 20
    assert not torch.equal(result.last_hidden_state, expected.last_hidden_state)
    assert quantized.encoder is not model.encoder and quantized.policy is not policy
    scorers = [module for module in quantized.policy.modules() if isinstance(module, nn.Linear)]
    assert scorers and all(type(module) is nn.Linear for module in scorers)
    assert not any(type(module) is nn.Linear for module in quantized.encoder.encoder.modules())


def test_models_that_cannot_be_quantized_are_refused(tiny_bert: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="eval"):
        quantize_int8(tiny_bert().train())
    with pytest.raises(ConfigError, match="float32"):
        quantize_int8(tiny_bert().eval().bfloat16())
    with pytest.raises(ConfigError, match="Hugging Face"):
        quantize_int8(nn.Linear(2, 2).eval())
    with pytest.raises(ConfigError, match="not quantized"):
        quantize_int8(quantize_int8(tiny_bert().eval()))
