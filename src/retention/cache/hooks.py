"""Register the hooks by which a decoder calls its bounded cache."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

# names under which decoders pass the cache to their attention modules
_CACHE_ARGUMENTS = ("past_key_values", "layer_past")


class CacheHooks:
    """Hooks on a decoder that serve one cache.

    They find the cache among the arguments of a call and do not refer to it, so that the model does not keep it alive.
    Those of a copy of the model serve none.

    Args:
        decoder: the decoder.

    Attributes:
        used: the decoder was called with the cache.
        passed_over: it was called with another kind of cache, or none.
    """

    def __init__(self, decoder: nn.Module) -> None:
        self.used = False
        self.passed_over = False
        self._parameters = tuple(inspect.signature(decoder.forward).parameters)

    def register(
        self, decoder: nn.Module, modules: Iterable[nn.Module], rotary: nn.Module | None, *, rescoring: bool
    ) -> list[RemovableHandle]:
        """Register the hooks, and return the handles that remove them.

        Args:
            decoder: the decoder.
            modules: its attention modules.
            rotary: its rotary embedding; None if it has none.
            rescoring: pass the attention of each pass to the cache.
        """
        handles = [
            decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
            decoder.register_forward_hook(self._after_decoder, with_kwargs=True),
        ]
        for index, module in enumerate(modules):
            before = partial(self._before_attention, index)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            if rescoring:
                after = partial(self._after_attention, index, rotary)
                handles.append(module.register_forward_hook(after, with_kwargs=True))
        return handles

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the decoder by name."""
        return {**dict(zip(self._parameters, args, strict=False)), **kwargs}

    def _serves(self, given: Any) -> bool:
        """Return True for the cache whose hooks these are."""
        return getattr(given, "hooks", None) is self

    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = self._arguments(args, kwargs)
        given: Any = call.get("past_key_values")
        if self._serves(given):
            given.before_pass(call)
        elif not torch.compiler.is_compiling():
            self.passed_over |= not isinstance(getattr(given, "hooks", None), CacheHooks)

    def _after_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given: Any = self._arguments(args, kwargs).get("past_key_values")
        if self._serves(given):
            given.after_pass()

    def _before_attention(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        for name in _CACHE_ARGUMENTS:
            cache: Any = kwargs.get(name)
            if self._serves(cache):
                hidden_states = args[0] if args else kwargs["hidden_states"]
                mask = cache.attention_mask(index, hidden_states, kwargs.get("attention_mask"))
                return args, {**kwargs, "attention_mask": mask}
        return None

    def _after_attention(
        self,
        index: int,
        rotary: nn.Module | None,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        for name in _CACHE_ARGUMENTS:
            cache: Any = kwargs.get(name)
            if self._serves(cache):
                cache.after_attention(index, rotary, module, output[1])


def remove(handles: list[RemovableHandle]) -> None:
    """Remove hooks, and forget their handles."""
    for handle in handles:
        handle.remove()
    handles.clear()
