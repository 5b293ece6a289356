"""Choose the number format that an encoder computes in at inference."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from retention.errors import require
from retention.models.quantization import hugging_face_model, quantize_int8

PRECISIONS = ("float32", "bfloat16", "int8")
Model = TypeVar("Model", bound=nn.Module)


def in_precision(model: Model, precision: str) -> Model:
    """Return a model whose encoder computes in a number format, for inference.

    The scorers of a policy stay in float32 in every format.

    Args:
        model: a Hugging Face encoder with float32 weights, or a module that contains one, such as an ``Embedder``.
        precision: ``float32`` returns the model itself, ``bfloat16`` a copy whose encoder has weights and states in
            bfloat16, ``int8`` a copy with quantized linear layers (see ``quantize_int8``; CPU only).

    Raises:
        ConfigError: the precision is unknown, or the model cannot be quantized.
    """
    require(precision in PRECISIONS, "precision", f"must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "int8":
        return quantize_int8(model)
    if precision == "bfloat16":
        result = copy.deepcopy(model)
        hugging_face_model(result).to(torch.bfloat16)
        return result
    return model
