"""Adapt BigBird."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, PositionTable
from retention.errors import ConfigError, Problem


class BigBirdAdapter(Adapter):
    """Adapter of BigBird with full attention: absolute positions, only the mask changes; eager attention only."""

    model_types: ClassVar[tuple[str, ...]] = ("big_bird",)
    attention: ClassVar[tuple[str, ...]] = ("eager",)
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer", "after_attention")

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        """Return the Transformer layers in the order in which they run."""
        return cast(Sequence[nn.Module], cast(Any, encoder).encoder.layer)

    def attention_output(self, layer: nn.Module) -> nn.Module:
        """Return the module that outputs the states between attention and feed-forward."""
        return cast(nn.Module, cast(Any, layer).attention)

    def shape(self, config: Any) -> EncoderShape:
        """Return the dimensions that FLOPs depend on."""
        return EncoderShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
        )

    def check(self, config: Any) -> None:
        """Check that removal equals masking for this configuration."""
        super().check(config)
        if config.attention_type != "original_full":
            message = (
                f"must be original_full, got {config.attention_type!r}: sparse blocks are laid out over the current "
                "tokens, so removing a token would change which other tokens attend to each other"
            )
            raise ConfigError([Problem("model.config.attention_type", message)])

    def position_table(self, config: Any) -> PositionTable | None:
        """Return the table of learned absolute positions."""
        return PositionTable("embeddings.position_embeddings.weight")
