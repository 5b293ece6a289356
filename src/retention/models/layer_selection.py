"""Build shallower encoders from some of the layers of a deeper one."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from retention.engine.adapters import adapter_for
from retention.errors import require

# The first layer of these families holds a position table for all others, or each layer is configured by itself.
_UNSUPPORTED = ("t5", "led", "longformer")
_PREFIX = "encoder."  # of the encoder's weights in the state of a RetentionModel


def config_of_layers(config: Any, layers: Sequence[int]) -> Any:
    """Return a copy of a Hugging Face configuration that has some of its layers only.

    The copy stores the layers of the original under ``source_layers``, see ``full_config``.

    Args:
        config: configuration of the encoder with all layers.
        layers: 0-based indices of the layers to keep, ascending.

    Raises:
        ConfigError: a layer does not exist, or the family is not supported.
    """
    supported = config.model_type not in _UNSUPPORTED
    message = f"{config.model_type} encoders cannot be built from some of their layers; set it to null"
    require(supported, "backbone.layers", message)
    count = adapter_for(config.model_type).shape(config).num_layers
    missing = [layer for layer in layers if layer >= count]
    require(not missing, "backbone.layers", f"layers {missing} do not exist, the encoder has {count} (0..{count - 1})")
    shallow = copy.deepcopy(config)
    types = getattr(config, "layer_types", None)
    shallow.source_layers = {"num_hidden_layers": count, "layer_types": types}
    if types:
        shallow.layer_types = [types[layer] for layer in layers]
    shallow.num_hidden_layers = len(layers)
    return shallow


def full_config(config: Any) -> Any:
    """Return the configuration with all layers of an encoder that was built from some of them."""
    source = getattr(config, "source_layers", None)
    if source is None:
        return config
    full = copy.deepcopy(config)
    full.num_hidden_layers = source["num_hidden_layers"]
    if source["layer_types"]:
        full.layer_types = source["layer_types"]
    return full


def select_layers(encoder: nn.Module, layers: Sequence[int]) -> nn.Module:
    """Remove all layers of an encoder except some, in place.

    Args:
        encoder: Hugging Face encoder.
        layers: 0-based indices of the layers to keep, ascending.
    """
    config: Any = encoder.config
    shallow = config_of_layers(config, layers)
    _, stack = _layer_stack(encoder)
    selected = [stack[layer] for layer in layers]
    del stack[:]
    stack.extend(selected)
    for module in encoder.modules():  # submodules hold the same configuration object
        if getattr(module, "config", None) is config:
            module.config = shallow
    return encoder


def state_of_layers(state: Mapping[str, Tensor], encoder: nn.Module, layers: Sequence[int]) -> dict[str, Tensor]:
    """Return the weights of a deeper ``RetentionModel`` for a shallower one, with the selected layers renumbered.

    Args:
        state: weights of the deeper model. Weights with no more layers than ``encoder`` are returned unchanged.
        encoder: the shallower encoder.
        layers: 0-based indices of the deeper model's layers that ``encoder`` consists of, ascending.
    """
    name, stack = _layer_stack(encoder)
    pattern = re.compile(rf"{re.escape(_PREFIX + name)}\.(\d+)\.(.*)")
    matches = {key: pattern.fullmatch(key) for key in state}
    depth = 1 + max((int(match.group(1)) for match in matches.values() if match), default=-1)
    if depth <= len(stack):
        return dict(state)
    new_index = {layer: index for index, layer in enumerate(layers)}
    selected: dict[str, Tensor] = {}
    for key, match in matches.items():
        if match is None:
            selected[key] = state[key]
        elif int(match.group(1)) in new_index:
            selected[f"{_PREFIX}{name}.{new_index[int(match.group(1))]}.{match.group(2)}"] = state[key]
    return selected


def _layer_stack(encoder: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the list of layers and its dotted name in the encoder."""
    config: Any = encoder.config
    layers = adapter_for(str(config.model_type)).layers(encoder)
    for name, module in encoder.named_modules():
        if module is layers and isinstance(module, nn.ModuleList):
            return name, module
    raise TypeError(f"the layers of a {type(encoder).__name__} are not a ModuleList of the encoder")
