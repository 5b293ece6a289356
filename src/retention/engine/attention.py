"""The engine's own attention without any removal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from retention.engine.adapters import adapter_for, encoder_of


@contextmanager
def engine_attention(model: nn.Module) -> Iterator[None]:
    """Inside the block an encoder computes its attention as it does inside a ``Retainer``, with every token there.

    For Longformer and LED the result is the library's up to rounding, and faster; other families are left as they are.

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
