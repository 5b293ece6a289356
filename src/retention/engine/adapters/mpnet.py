"""Adapt MPNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, Arguments, AttentionParts, PositionTable, argument, replace
from retention.engine.gate import OBSERVABLE
from retention.engine.state import ForwardState


class MPNetAdapter(Adapter):
    """Adapter of MPNet: the relative position bias [B, H, T, T] is gathered on both axes; eager attention only."""

    model_types: ClassVar[tuple[str, ...]] = ("mpnet",)
    attention: ClassVar[tuple[str, ...]] = ("eager",)
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
        attention = cast(Any, layer).attention.attn
        return AttentionParts(attention, attention.k, attention.num_attention_heads)

    def shape(self, config: Any) -> EncoderShape:
        """Return the dimensions that FLOPs depend on."""
        return EncoderShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
        )

    def position_table(self, config: Any) -> PositionTable | None:
        """Return the table of learned absolute positions."""
        return PositionTable("embeddings.position_embeddings.weight", offset=2)  # independent of the padding id

    def rewrite(self, layer: nn.Module, arguments: Arguments, state: ForwardState) -> Arguments:
        """Rewrite the arguments of a layer call for the current tokens."""
        bias: Tensor = argument(layer, arguments, "position_bias")
        return replace(
            layer,
            arguments,
            attention_mask=self.mask(layer, arguments, state),
            position_bias=state.cached("position_bias", lambda: gather_pairs(bias, state.positions)),
        )

    def implementation(self, layer: nn.Module) -> str:
        """Return ``eager``, the only implementation of this family."""
        return "eager"


def gather_pairs(bias: Tensor, positions: Tensor) -> Tensor:
    """Gather rows and columns of a pairwise tensor [B, H, T, T] at positions [B, N]: [B, H, N, N]."""
    batch, heads, _, length = bias.shape
    rows = bias.gather(2, positions[:, None, :, None].expand(batch, heads, -1, length))
    return rows.gather(3, positions[:, None, None, :].expand(batch, heads, positions.shape[1], -1))
