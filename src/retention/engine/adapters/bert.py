"""BERT and the families that share its encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, AttentionParts, PositionTable
from retention.engine.gate import OBSERVABLE


class BertAdapter(Adapter):
    """BERT, RoBERTa, XLM-R and ELECTRA: absolute positions enter before layer 0, so only the mask changes."""

    model_types: ClassVar[tuple[str, ...]] = ("bert", "roberta", "xlm-roberta", "electra")
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer", "after_attention")
    observable: ClassVar[tuple[str, ...]] = OBSERVABLE

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        return cast(Sequence[nn.Module], cast(Any, encoder).encoder.layer)

    def attention_output(self, layer: nn.Module) -> nn.Module:
        return cast(nn.Module, cast(Any, layer).attention)

    def attention_parts(self, layer: nn.Module) -> AttentionParts:
        attention = cast(Any, layer).attention.self
        return AttentionParts(attention, attention.key, attention.num_attention_heads)

    def shape(self, config: Any) -> EncoderShape:
        narrow = getattr(config, "embedding_size", config.hidden_size)  # ELECTRA's may differ, and is projected
        return EncoderShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            embedding_macs=0 if narrow == config.hidden_size else narrow * config.hidden_size,
        )

    def position_table(self, config: Any) -> PositionTable | None:
        counted = config.model_type in ("roberta", "xlm-roberta")  # their first token has the row after padding's
        return PositionTable("embeddings.position_embeddings.weight", config.pad_token_id + 1 if counted else 0)
