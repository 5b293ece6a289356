"""Provide one adapter per encoder family; a new family is one new file in this folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn

from retention.core.wrappers import unwrapped
from retention.engine.adapters.base import Adapter
from retention.errors import ConfigError, Problem


@cache
def adapters() -> dict[str, Adapter]:
    """Return every adapter by the ``model_type`` of the Hugging Face configurations it supports.

    The result is computed once and shared; do not change it. An adapter of another package is included if its subclass
    of ``Adapter`` is defined before the first call.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {
        model_type: adapter()
        for adapter in _subclasses(Adapter)  # type: ignore[type-abstract]
        for model_type in adapter.model_types
    }


def _subclasses(parent: type[Adapter]) -> Iterator[type[Adapter]]:
    for adapter in parent.__subclasses__():
        yield adapter
        yield from _subclasses(adapter)


def adapter_for(model_type: str) -> Adapter:
    """Return the adapter of a family.

    Raises:
        ConfigError: the family has none.
    """
    supported = adapters()
    if model_type not in supported:
        message = f"no adapter for the family {model_type!r}; supported: {', '.join(sorted(supported))}"
        raise ConfigError([Problem("model", message)])
    return supported[model_type]


def encoder_of(model: nn.Module) -> nn.Module:
    """Return the encoder inside a Hugging Face model, without its head or decoder.

    Wrappers around the model (PEFT, ``torch.compile``, distributed data parallel) are looked through.

    Raises:
        ConfigError: ``model`` is no Hugging Face model.
    """
    base = _without_head(model)
    encoder: nn.Module = base.get_encoder() if _is_encoder_decoder(base) else base
    if not hasattr(getattr(encoder, "config", None), "model_type"):
        message = (
            f"must be a Hugging Face model, got a {type(model).__name__}; pass the model inside it, such as "
            "model[0].auto_model of a SentenceTransformer"
        )
        raise ConfigError([Problem("model", message)])
    return encoder


def has_decoder(model: nn.Module) -> bool:
    """Return True if a Hugging Face model has a decoder beside its encoder; wrappers are looked through."""
    return _is_encoder_decoder(_without_head(model))


def _without_head(model: nn.Module) -> Any:
    inner: Any = unwrapped(model)
    return getattr(inner, "base_model", inner)


def _is_encoder_decoder(base: Any) -> bool:
    return getattr(base, "decoder", None) is not None


__all__ = ["Adapter", "adapter_for", "adapters", "encoder_of", "has_decoder"]
