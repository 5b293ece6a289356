"""Compute an encoder's attention by the engine, without removing tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from retention.engine.adapters import adapter_for, encoder_of


@contextmanager
def engine_attention(model: nn.Module) -> Iterator[None]:
    """Compute attention inside the block as a ``Retainer`` does, with every token kept.

    For Longformer and LED the result equals the library's up to rounding, and is faster; other families are unchanged.

    Raises:
        ConfigError: no adapter for the family.
    """
    encoder: Any = encoder_of(model)
    handles = adapter_for(encoder.config.model_type).attach(encoder)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
