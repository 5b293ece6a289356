"""Adapt BERT and the families that share its encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, AttentionParts, PositionTable
from retention.engine.gate import OBSERVABLE


class BertAdapter(Adapter):
    """Adapter of BERT, RoBERTa, XLM-R and ELECTRA.

    Absolute positions are added before layer 0, so only the attention mask changes.
    """

    model_types: ClassVar[tuple[str, ...]] = ("bert", "roberta", "xlm-roberta", "electra")
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer", "after_attention")
    observable: ClassVar[tuple[str, ...]] = OBSERVABLE

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        """Return the Transformer layers in the order in which they run."""
        return cast(Sequence[nn.Module], cast(Any, encoder).encoder.layer)

    def attention_output(self, layer: nn.Module) -> nn.Module:
        """Return the module that outputs the states between attention and feed-forward."""
        return cast(nn.Module, cast(Any, layer).attention)

    def attention_parts(self, layer: nn.Module) -> AttentionParts:
        """Return the attention modules of a layer."""
        attention = cast(Any, layer).attention.self
        return AttentionParts(attention, attention.key, attention.num_attention_heads)

    def shape(self, config: Any) -> EncoderShape:
        """Return the dimensions that FLOPs depend on."""
        embedding_size = getattr(config, "embedding_size", config.hidden_size)  # ELECTRA projects its embeddings
        return EncoderShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            embedding_macs=0 if embedding_size == config.hidden_size else embedding_size * config.hidden_size,
        )

    def position_table(self, config: Any) -> PositionTable | None:
        """Return the table of learned absolute positions."""
        starts_after_padding = config.model_type in ("roberta", "xlm-roberta")
        offset = config.pad_token_id + 1 if starts_after_padding else 0
        return PositionTable("embeddings.position_embeddings.weight", offset)
