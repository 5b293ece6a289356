"""Adapt ModernBERT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, Arguments, AttentionParts, argument, replace
from retention.engine.compaction import compact
from retention.engine.gate import OBSERVABLE
from retention.engine.state import ForwardState


class ModernBertAdapter(Adapter):
    """Adapter of ModernBERT: rotary tables are gathered, and local windows are measured in original positions.

    Tokens cannot be removed after the attention: the layer adds the residual inside its own forward pass, so no
    submodule outputs the states between attention and feed-forward, where a hook could shorten them.
    """

    model_types: ClassVar[tuple[str, ...]] = ("modernbert",)
    observable: ClassVar[tuple[str, ...]] = OBSERVABLE

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        """Return the Transformer layers in the order in which they run."""
        return cast(Sequence[nn.Module], cast(Any, encoder).layers)

    def attention_parts(self, layer: nn.Module) -> AttentionParts:
        """Return the attention modules of a layer."""
        attention = cast(Any, layer).attn
        return AttentionParts(attention, attention.Wqkv, attention.config.num_attention_heads, joined=3)

    def shape(self, config: Any) -> EncoderShape:
        """Return the dimensions that FLOPs depend on."""
        return EncoderShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            ffn_matrices=3,
            windows=tuple(
                config.sliding_window if kind == "sliding_attention" else None for kind in config.layer_types
            ),
        )

    def rewrite(self, layer: nn.Module, arguments: Arguments, state: ForwardState) -> Arguments:
        """Rewrite the arguments of a layer call for the current tokens."""
        kind = str(cast(Any, layer).attention_type)
        window = int(cast(Any, layer).config.sliding_window) if kind == "sliding_attention" else None
        tables: tuple[Tensor, Tensor] = argument(layer, arguments, "position_embeddings")

        def gather_tables() -> tuple[Tensor, ...]:
            batch = state.positions.shape[0]
            return tuple(compact(table.expand(batch, -1, -1), state.positions) for table in tables)

        return replace(
            layer,
            arguments,
            attention_mask=self.mask(layer, arguments, state, window),
            position_embeddings=state.cached(f"rotary/{kind}", gather_tables),
        )
