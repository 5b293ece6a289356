"""Provide one adapter per encoder family; a new family is one new file in this folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn

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
    inner: Any = _unwrapped(model)
    base: Any = getattr(inner, "base_model", inner)
    encoder: nn.Module = base.get_encoder() if getattr(base, "decoder", None) is not None else base
    if not hasattr(getattr(encoder, "config", None), "model_type"):
        message = (
            f"must be a Hugging Face model, got a {type(model).__name__}; pass the model inside it, such as "
            "model[0].auto_model of a SentenceTransformer"
        )
        raise ConfigError([Problem("model", message)])
    return encoder


def _unwrapped(model: Any) -> Any:
    """Return the Hugging Face model inside wrappers."""
    while True:
        if isinstance(model, nn.DataParallel):
            message = (
                "nn.DataParallel copies the model to threads in every call, and tokens would not be removed in the "
                "copies; use one process per device (DistributedDataParallel, trainer.strategy=ddp), or pass "
                "model.module to run on one device"
            )
            raise ConfigError([Problem("model", message)])
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):  # PEFT
            model = model.get_base_model()
        else:
            return model


__all__ = ["Adapter", "adapter_for", "adapters", "encoder_of"]
