"""Define the adapter of an encoder family: where its layers are and how their arguments change."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine.replacement import Handle
from retention.engine.state import ForwardState
from retention.errors import ConfigError, Problem, require

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class PositionTable:
    """Location of a family's learned absolute position embeddings.

    Attributes:
        parameter: name of the table [rows, D] in the encoder's ``state_dict``.
        offset: rows before the one of the first token.
        field: name of the configuration field with the number of rows.
    """

    parameter: str
    offset: int = 0
    field: str = "max_position_embeddings"

    def num_positions(self, config: Any) -> int:
        """Return the number of tokens that the table has rows for."""
        return int(getattr(config, self.field)) - self.offset


@dataclass(frozen=True)
class AttentionParts:
    """Attention modules of one layer.

    Attributes:
        module: its forward returns (output, probabilities [B, H, N, N], ...) under eager attention.
        keys: the projection whose output contains the keys.
        heads: H.
        joined: 1 = ``keys`` returns the keys alone, 3 = queries, keys and values side by side.
    """

    module: nn.Module
    keys: nn.Module
    heads: int
    joined: int = 1


class Adapter(ABC):
    """Base class of adapters: finds the layers of a family and rewrites their arguments for the remaining tokens.

    Attributes:
        model_types: supported values of ``config.model_type``.
        attention: attention implementations for which removal is tested to equal masking.
        prune_points: where tokens can be removed; ``after_attention`` needs ``attention_output``.
        computes_attention: True if ``attach`` replaces the attention, so that full sequences, too, equal the library's
            result only up to rounding.
        observable: what gates may observe of a layer's attention, see ``Gate``; needs ``attention_parts``.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    attention: ClassVar[tuple[str, ...]] = ("sdpa", "eager")
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer",)
    computes_attention: ClassVar[bool] = False
    observable: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        """Return the Transformer layers in the order in which they run."""

    @abstractmethod
    def shape(self, config: Any) -> EncoderShape:
        """Return the dimensions that FLOPs depend on, from the Hugging Face configuration alone."""

    def attention_output(self, layer: nn.Module) -> nn.Module:
        """Return the module whose output, or its first item, are the states between attention and feed-forward."""
        raise TypeError(f"no module of a {type(layer).__name__} outputs the states between attention and feed-forward")

    def check(self, config: Any) -> None:
        """Check that removal equals masking for this configuration; a subclass adds to it.

        Raises:
            ConfigError: it does not; the message gives the reason.
        """
        for field in ("is_decoder", "is_causal"):
            message = "must be false: with causal attention a removed token would let others see later ones"
            require(not getattr(config, field, False), f"model.config.{field}", f"{message}; load an encoder")
        chunk = getattr(config, "chunk_size_feed_forward", 0)
        message = f"must be 0, got {chunk}: the chunks would have to divide the number of kept tokens"
        require(not chunk, "model.config.chunk_size_feed_forward", message)

    def position_table(self, config: Any) -> PositionTable | None:
        """Return the table of learned absolute positions; None where positions are rotary or relative."""
        return None

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the arguments of the encoder's forward pass for a batch of the data modules."""
        names = ("input_ids", "attention_mask", "token_type_ids")  # the last one for pairs that the model tells apart
        return {name: batch[name] for name in names if name in batch}

    def global_tokens(self, call: Mapping[str, Any]) -> Tensor | None:
        """Return the global tokens [B, T] bool of a forward pass, from its arguments; they are never removed."""
        return None

    def attach(self, encoder: nn.Module) -> list[Handle]:
        """Replace parts of the encoder; ``remove`` of the returned handles restores them."""
        return []

    def attention_parts(self, layer: nn.Module) -> AttentionParts:
        """Return the attention modules of a layer, for gates that observe them."""
        raise TypeError(f"{type(self).__name__} does not support policies that observe the attention")

    def rewrite(self, layer: nn.Module, arguments: Arguments, state: ForwardState) -> Arguments:
        """Rewrite the arguments of a layer call for the current tokens; by default only the attention mask."""
        return replace(layer, arguments, attention_mask=self.mask(layer, arguments, state))

    def mask(self, layer: nn.Module, arguments: Arguments, state: ForwardState, window: int | None = None) -> Any:
        """Return the attention mask in the format of the layer's attention implementation."""
        dtype = compute_dtype(argument(layer, arguments, "hidden_states"))
        return state.mask(dtype, boolean=self.implementation(layer) == "sdpa", window=window)

    def implementation(self, layer: nn.Module) -> str:
        """Return the name of the attention implementation in use."""
        for module in layer.modules():
            config = getattr(module, "config", None)
            if config is not None:
                return str(config._attn_implementation)
        return "eager"


def transformer_layers(adapter: Adapter, encoder: nn.Module, num_layers: int) -> Sequence[nn.Module]:
    """Return the Transformer layers of an encoder.

    Raises:
        ConfigError: they are not where the family has them, or are not as many as the configuration says.
    """
    remedy = "pass the Hugging Face model itself"
    try:
        layers = adapter.layers(encoder)
    except AttributeError as error:
        message = f"cannot find the layers of a {type(encoder).__name__} ({error}); {remedy}"
        raise ConfigError([Problem("model", message)]) from error
    message = f"{type(encoder).__name__} has {len(layers)} layers, its configuration says {num_layers}; correct it"
    require(len(layers) == num_layers, "model", message)
    return layers


def compute_dtype(hidden_states: Tensor) -> torch.dtype:
    """Return the dtype in which the attention logits of these states are computed, considering autocast."""
    device = hidden_states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype


@cache
def parameter_names(layer_type: Hashable) -> tuple[str, ...]:
    """Return the parameter names of a layer class's ``forward``, without self."""
    return tuple(inspect.signature(cast(type[nn.Module], layer_type).forward).parameters)[1:]


def argument(layer: nn.Module, arguments: Arguments, name: str) -> Any:
    """Return one argument of a layer call, passed by position or by name."""
    args, kwargs = arguments
    index = parameter_names(cast(Hashable, type(layer))).index(name)
    return args[index] if index < len(args) else kwargs.get(name)


def replace(layer: nn.Module, arguments: Arguments, **values: Any) -> Arguments:
    """Return the call with some arguments replaced; positional arguments stay positional."""
    args, kwargs = list(arguments[0]), dict(arguments[1])
    names = parameter_names(cast(Hashable, type(layer)))
    for name, value in values.items():
        index = names.index(name)
        if index < len(args):
            args[index] = value
        else:
            kwargs[name] = value
    return tuple(args), kwargs
