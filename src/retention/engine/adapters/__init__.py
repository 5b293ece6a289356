"""One adapter per encoder family; a new family is one new file in this folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from torch import nn

from retention.engine.adapters.base import Adapter
from retention.errors import ConfigError, Problem


def adapters() -> dict[str, Adapter]:
    """Every adapter by the ``model_type`` of the Hugging Face configurations it serves."""
    found: dict[str, Adapter] = {}
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    for adapter in _below(Adapter):  # type: ignore[type-abstract]
        for model_type in adapter.model_types:
            found[model_type] = adapter()
    return found


def _below(parent: type[Adapter]) -> Iterator[type[Adapter]]:
    for adapter in parent.__subclasses__():
        yield adapter
        yield from _below(adapter)


def adapter_for(model_type: str) -> Adapter:
    """The adapter of a family.

    Raises:
        ConfigError: the family has none.
    """
    known = adapters()
    if model_type not in known:
        message = f"no adapter for the family {model_type!r}; supported: {', '.join(sorted(known))}"
        raise ConfigError([Problem("backbone.path", message)])
    return known[model_type]


def encoder_of(model: nn.Module) -> nn.Module:
    """The bare encoder inside a Hugging Face model with or without a head or a decoder."""
    base: Any = getattr(model, "base_model", model)
    encoder: nn.Module = base.get_encoder() if getattr(base, "decoder", None) is not None else base
    return encoder


__all__ = ["Adapter", "adapter_for", "adapters", "encoder_of"]
