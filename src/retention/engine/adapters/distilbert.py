"""Adapt DistilBERT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, AttentionParts, PositionTable
from retention.engine.gate import OBSERVABLE


class DistilBertAdapter(Adapter):
    """Adapter of DistilBERT: absolute positions, only the mask changes."""

    model_types: ClassVar[tuple[str, ...]] = ("distilbert",)
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer", "after_attention")
    observable: ClassVar[tuple[str, ...]] = OBSERVABLE

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        """Return the Transformer layers in the order in which they run."""
        return cast(Sequence[nn.Module], cast(Any, encoder).transformer.layer)

    def attention_output(self, layer: nn.Module) -> nn.Module:
        """Return the module that outputs the states between attention and feed-forward."""
        return cast(nn.Module, cast(Any, layer).sa_layer_norm)

    def attention_parts(self, layer: nn.Module) -> AttentionParts:
        """Return the attention modules of a layer."""
        attention = cast(Any, layer).attention
        return AttentionParts(attention, attention.k_lin, attention.n_heads)

    def shape(self, config: Any) -> EncoderShape:
        """Return the dimensions that FLOPs depend on."""
        return EncoderShape(num_layers=config.n_layers, hidden_size=config.dim, intermediate_size=config.hidden_dim)

    def position_table(self, config: Any) -> PositionTable | None:
        """Return the table of learned absolute positions."""
        return PositionTable("embeddings.position_embeddings.weight")
