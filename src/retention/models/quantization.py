"""Quantize the Transformer layers of an encoder to INT8, for faster inference on a CPU."""

from __future__ import annotations

import copy
import warnings
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from retention.engine import adapter_for, encoder_of
from retention.errors import ConfigError, Problem, require

Model = TypeVar("Model", bound=nn.Module)


def quantize_int8(model: Model) -> Model:
    """Return a copy of a model whose linear layers inside the Transformer layers compute in INT8.

    Weights are quantized once, with one scale per output channel; activations in every call, with one scale per tensor.
    Embeddings, normalization, attention products, scorers of a policy and heads stay in float, so tokens are ranked by
    float scores of quantized states. The model works with token removal as before. It cannot be trained.

    Uses dynamic quantization of ``torch.ao.quantization``, whose kernels run without a compiler. Those of torchao need
    ``torch.compile`` on a CPU, and token removal runs uncompiled.

    Args:
        model: a Hugging Face encoder, or a module that contains one, such as a ``RetentionModel`` or an ``Embedder``;
            in evaluation mode, with float32 weights on the CPU. It is not changed.

    Raises:
        ConfigError: there is no Hugging Face encoder in the model, its weights are not float32 on the CPU, it is in
            training mode, or its layers are quantized already.
    """
    result = copy.deepcopy(model)
    encoder: Any = encoder_of(hugging_face_model(result))
    require(not encoder.training, "model", "is in training mode; call model.eval() first")
    weights = {f"{each.dtype} on {each.device.type}".removeprefix("torch.") for each in encoder.parameters()}
    message = f"must have float32 weights on the CPU, got {', '.join(sorted(weights))}; convert or move it first"
    require(weights == {"float32 on cpu"}, "model", message)
    layers = adapter_for(encoder.config.model_type).layers(encoder)
    linear = any(type(module) is nn.Linear for layer in layers for module in layer.modules())
    require(linear, "model", "has no float linear layers in its Transformer layers; pass a model that is not quantized")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        quantize: Any = quantize_dynamic
        for layer in layers:
            quantize(layer, {nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8, inplace=True)
    return result


def hugging_face_model(model: nn.Module) -> nn.Module:
    """Return the outermost Hugging Face model among a module and the modules in it.

    Raises:
        ConfigError: there is none.
    """
    for each in model.modules():
        if isinstance(each, PreTrainedModel):
            return each
    message = f"holds no Hugging Face model, got a {type(model).__name__}; pass one, or a module around it"
    raise ConfigError([Problem("model", message)])
