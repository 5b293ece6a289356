"""BigBird."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, PositionTable
from retention.errors import ConfigError, Problem


class BigBirdAdapter(Adapter):
    """BigBird with full attention: absolute positions, only the mask changes; eager only."""

    model_types: ClassVar[tuple[str, ...]] = ("big_bird",)
    attention: ClassVar[tuple[str, ...]] = ("eager",)
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer", "after_attention")

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        return cast(Sequence[nn.Module], cast(Any, encoder).encoder.layer)

    def attention_output(self, layer: nn.Module) -> nn.Module:
        return cast(nn.Module, cast(Any, layer).attention)

    def shape(self, config: Any) -> EncoderShape:
        return EncoderShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
        )

    def check(self, config: Any) -> None:
        if config.attention_type != "original_full":
            message = (
                f"must be original_full, got {config.attention_type!r}: blocks of neighbours and random blocks are "
                "laid out over the tokens that are there, so removing a token would change which others see each other"
            )
            raise ConfigError([Problem("backbone.fields.attention_type", message)])

    def position_table(self, config: Any) -> PositionTable | None:
        return PositionTable("embeddings.position_embeddings.weight")
