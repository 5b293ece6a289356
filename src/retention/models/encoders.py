"""Build encoders without decoder and pooler."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from retention.engine.adapters import encoder_of


def build_encoder(config: Any, attn_implementation: str | None, *, trust_remote_code: bool = False) -> nn.Module:
    """Build a randomly initialized encoder.

    Args:
        config: Hugging Face configuration.
        attn_implementation: ``sdpa``, ``eager`` or None = the family's default.
        trust_remote_code: True to run model code that is not part of transformers.
    """
    extra = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    loader: Any = AutoModel
    return strip_pooler(loader.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code, **extra))


def strip_pooler(model: nn.Module) -> nn.Module:
    """Return the encoder without decoder and pooler.

    Heads read token states, and unused parameters break distributed training.
    """
    encoder = encoder_of(model)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # type: ignore[assignment]
    return encoder
