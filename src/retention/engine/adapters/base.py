"""What the engine needs to know about an encoder family."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine.state import ForwardState

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Adapter(ABC):
    """Finds the layers of a family and rewrites their arguments for the tokens that are left.

    Attributes:
        model_types: values of ``config.model_type`` served.
        attention: attention implementations that are proven equivalent to masking.
        places: where tokens can leave; ``after_attention`` needs ``middle``.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    attention: ClassVar[tuple[str, ...]] = ("sdpa", "eager")
    places: ClassVar[tuple[str, ...]] = ("after_layer",)

    @abstractmethod
    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        """The Transformer layers, in the order they run."""

    @abstractmethod
    def shape(self, config: Any) -> EncoderShape:
        """Dimensions for the FLOPs ledger, from the Hugging Face configuration alone."""

    def middle(self, layer: nn.Module) -> nn.Module:
        """The part of a layer whose output, or its first item, are the states between attention and feed-forward."""
        raise TypeError(f"no part of a {type(layer).__name__} hands over its states between attention and feed-forward")

    def rewrite(self, layer: nn.Module, arguments: Arguments, state: ForwardState) -> Arguments:
        """Arguments of a layer call for the current tokens; by default only the attention mask changes."""
        return replace(layer, arguments, attention_mask=self.mask(layer, arguments, state))

    def mask(self, layer: nn.Module, arguments: Arguments, state: ForwardState, window: int | None = None) -> Any:
        """The attention mask in the form that the layer's attention implementation takes."""
        hidden_states: Tensor = argument(layer, arguments, "hidden_states")
        dtype = torch.get_autocast_dtype(hidden_states.device.type) if _autocast(hidden_states) else hidden_states.dtype
        return state.mask(dtype, boolean=self.implementation(layer) == "sdpa", window=window)

    def implementation(self, layer: nn.Module) -> str:
        """Name of the attention implementation in use."""
        for module in layer.modules():
            config = getattr(module, "config", None)
            if config is not None:
                return str(config._attn_implementation)
        return "eager"


def _autocast(tensor: Tensor) -> bool:
    return torch.is_autocast_enabled(tensor.device.type)


@cache
def parameter_names(layer_type: Hashable) -> tuple[str, ...]:
    """Parameter names of the ``forward`` of a layer class, without self."""
    return tuple(inspect.signature(cast(type[nn.Module], layer_type).forward).parameters)[1:]


def argument(layer: nn.Module, arguments: Arguments, name: str) -> Any:
    """One argument of a layer call, given by position or by name."""
    args, kwargs = arguments
    index = parameter_names(cast(Hashable, type(layer))).index(name)
    return args[index] if index < len(args) else kwargs.get(name)


def replace(layer: nn.Module, arguments: Arguments, **values: Any) -> Arguments:
    """The same call with some arguments replaced; positional ones stay positional."""
    args, kwargs = list(arguments[0]), dict(arguments[1])
    names = parameter_names(cast(Hashable, type(layer)))
    for name, value in values.items():
        index = names.index(name)
        if index < len(args):
            args[index] = value
        else:
            kwargs[name] = value
    return tuple(args), kwargs
