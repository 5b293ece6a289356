"""DistilBERT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, AttentionParts, PositionTable
from retention.engine.gate import OBSERVABLE


class DistilBertAdapter(Adapter):
    """DistilBERT: absolute positions, only the mask changes."""

    model_types: ClassVar[tuple[str, ...]] = ("distilbert",)
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer", "after_attention")
    observable: ClassVar[tuple[str, ...]] = OBSERVABLE

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        return cast(Sequence[nn.Module], cast(Any, encoder).transformer.layer)

    def attention_output(self, layer: nn.Module) -> nn.Module:
        return cast(nn.Module, cast(Any, layer).sa_layer_norm)

    def attention_parts(self, layer: nn.Module) -> AttentionParts:
        attention = cast(Any, layer).attention
        return AttentionParts(attention, attention.k_lin, attention.n_heads)

    def shape(self, config: Any) -> EncoderShape:
        return EncoderShape(num_layers=config.n_layers, hidden_size=config.dim, intermediate_size=config.hidden_dim)

    def position_table(self, config: Any) -> PositionTable | None:
        return PositionTable("embeddings.position_embeddings.weight")
