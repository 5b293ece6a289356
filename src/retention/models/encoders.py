"""Encoders as heads here want them: alone, without decoder and pooler."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from retention.engine.adapters import encoder_of


def build_encoder(config: Any, attn_implementation: str | None) -> nn.Module:
    """A randomly initialised encoder."""
    extra = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    loader: Any = AutoModel
    return strip_pooler(loader.from_config(config, dtype=torch.float32, **extra))


def strip_pooler(model: nn.Module) -> nn.Module:
    """The encoder without decoder and pooler: heads here read states, and unused parts trouble distributed runs."""
    encoder = encoder_of(model)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # type: ignore[assignment]
    return encoder
