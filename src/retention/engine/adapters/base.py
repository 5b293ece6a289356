"""What the engine needs to know about an encoder family."""

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

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class PositionTable:
    """Where a family keeps its learned absolute positions.

    Attributes:
        parameter: name of the table [rows, D] in the encoder's ``state_dict``.
        offset: rows before the one of the first token.
        field: name of the configuration field that holds the number of rows.
    """

    parameter: str
    offset: int = 0
    field: str = "max_position_embeddings"

    def num_positions(self, config: Any) -> int:
        """Tokens that the table has room for."""
        return int(getattr(config, self.field)) - self.offset


@dataclass(frozen=True)
class AttentionParts:
    """Where the attention of one layer is.

    Attributes:
        module: its forward returns (output, probabilities [B, H, N, N], ...) under eager attention.
        keys: the projection whose output holds the keys.
        heads: H.
        joined: 1 = ``keys`` gives the keys alone, 3 = queries, keys and values side by side.
    """

    module: nn.Module
    keys: nn.Module
    heads: int
    joined: int = 1


class Adapter(ABC):
    """Finds the layers of a family and rewrites their arguments for the tokens that are left.

    Attributes:
        model_types: values of ``config.model_type`` served.
        attention: attention implementations that are proven equivalent to masking.
        prune_points: where tokens can leave; ``after_attention`` needs ``middle``.
        computes_attention: whether ``attach`` replaces the attention, so that an untouched text, too, gets the result
            of other sums, equal up to rounding.
        observable: what gates may observe of a layer's attention, see ``Gate``; needs ``attention_parts``.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    attention: ClassVar[tuple[str, ...]] = ("sdpa", "eager")
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer",)
    computes_attention: ClassVar[bool] = False
    observable: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        """The Transformer layers, in the order they run."""

    @abstractmethod
    def shape(self, config: Any) -> EncoderShape:
        """Dimensions for the FLOPs ledger, from the Hugging Face configuration alone."""

    def attention_output(self, layer: nn.Module) -> nn.Module:
        """The part of a layer whose output, or its first item, are the states between attention and feed-forward."""
        raise TypeError(f"no part of a {type(layer).__name__} hands over its states between attention and feed-forward")

    def check(self, config: Any) -> None:  # noqa: B027 - most families have nothing to refuse
        """Refuse a configuration for which removal would not equal masking.

        Raises:
            ConfigError: with the reason.
        """

    def position_table(self, config: Any) -> PositionTable | None:
        """The table of learned absolute positions; None where positions are rotary or relative."""
        return None

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Arguments of the encoder's forward pass for a batch of the data modules."""
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def global_tokens(self, call: Mapping[str, Any]) -> Tensor | None:
        """Tokens [B, T] bool that see all and are seen by all, from the forward pass's arguments; never removed."""
        return None

    def attach(self, encoder: nn.Module) -> list[Handle]:
        """Replace parts of the encoder while it is in use here; undone by the ``remove`` of what is returned."""
        return []

    def attention_parts(self, layer: nn.Module) -> AttentionParts:
        """The attention of a layer, for gates that observe it."""
        raise TypeError(f"{type(self).__name__} does not say where the attention of its layers is")

    def rewrite(self, layer: nn.Module, arguments: Arguments, state: ForwardState) -> Arguments:
        """Arguments of a layer call for the current tokens; by default only the attention mask changes."""
        return replace(layer, arguments, attention_mask=self.mask(layer, arguments, state))

    def mask(self, layer: nn.Module, arguments: Arguments, state: ForwardState, window: int | None = None) -> Any:
        """The attention mask in the form that the layer's attention implementation takes."""
        dtype = compute_dtype(argument(layer, arguments, "hidden_states"))
        return state.mask(dtype, boolean=self.implementation(layer) == "sdpa", window=window)

    def implementation(self, layer: nn.Module) -> str:
        """Name of the attention implementation in use."""
        for module in layer.modules():
            config = getattr(module, "config", None)
            if config is not None:
                return str(config._attn_implementation)
        return "eager"


def compute_dtype(hidden_states: Tensor) -> torch.dtype:
    """The type in which attention logits of these states are computed."""
    device = hidden_states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype


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
