"""Name the supported decoder families and their attention modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from retention.core.wrappers import unwrapped
from retention.errors import require

# model type -> names of the list of layers and of the attention module in a layer
FAMILIES = {
    "llama": ("layers", "self_attn"),
    "mistral": ("layers", "self_attn"),
    "qwen2": ("layers", "self_attn"),
    "qwen3": ("layers", "self_attn"),
    "gpt_neox": ("layers", "attention"),
    "gpt2": ("h", "attn"),
}
ATTENTION = ("sdpa", "eager")


@dataclass(frozen=True)
class HeadCounts:
    """Number of attention heads of a decoder.

    Attributes:
        query: heads of the queries.
        key_value: heads of keys and values; each serves ``query / key_value`` heads of the queries.
    """

    query: int
    key_value: int

    @classmethod
    def of(cls, config: Any) -> HeadCounts:
        """Read the numbers from the configuration of a decoder; without grouped queries both are the same."""
        query = int(config.num_attention_heads)
        return cls(query, int(getattr(config, "num_key_value_heads", None) or query))


def decoder_of(model: nn.Module) -> nn.Module:
    """Return the decoder of a model with or without a head.

    Wrappers around the model (PEFT, ``torch.compile``, distributed data parallel) are looked through.

    Raises:
        ConfigError: the model is no Hugging Face model.
    """
    model = unwrapped(model)
    decoder = getattr(model, "base_model", None)
    message = f"must be a Hugging Face decoder, got {type(model).__name__}"
    require(isinstance(decoder, nn.Module) and hasattr(model, "config"), "model", message)
    assert isinstance(decoder, nn.Module)
    return decoder


def check_family(config: Any) -> None:
    """Check the configuration of a decoder, before its weights are loaded.

    Raises:
        ConfigError: the family, a sliding window or cross-attention is not supported.
    """
    message = f"{config.model_type!r} is not supported; supported families: {', '.join(FAMILIES)}"
    require(config.model_type in FAMILIES, "model", message)
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    slides = window is not None if layer_types is None else "sliding_attention" in layer_types
    message = f"layers with a sliding window of {window} tokens are bounded already; set config.sliding_window to None"
    require(not slides, "sliding_window", message)
    message = "decoders with cross-attention are not supported"
    require(not getattr(config, "add_cross_attention", False), "add_cross_attention", message)


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """Return the attention module of each layer.

    Raises:
        ConfigError: the family, its attention, a sliding window or cross-attention is not supported.
    """
    decoder = decoder_of(model)
    config: Any = decoder.config
    check_family(config)
    implementation = config._attn_implementation
    message = f"must be one of {', '.join(ATTENTION)}, got {implementation!r}; load the model with sdpa"
    require(implementation in ATTENTION, "attn_implementation", message)
    layers, attention = FAMILIES[config.model_type]
    return [getattr(layer, attention) for layer in getattr(decoder, layers)]
