"""The encoder of T5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, Arguments, argument, replace
from retention.engine.adapters.mpnet import gather_pairs
from retention.engine.state import ForwardState


class T5Adapter(Adapter):
    """T5's encoder: the position bias that block 0 makes, [1, H, T, T], is gathered on both axes."""

    model_types: ClassVar[tuple[str, ...]] = ("t5",)
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer", "after_attention")

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        stack: Any = getattr(encoder, "encoder", encoder)  # T5EncoderModel holds it, other models hand it out
        return cast(Sequence[nn.Module], stack.block)

    def attention_output(self, layer: nn.Module) -> nn.Module:
        return cast(nn.Module, cast(Any, layer).layer[0])

    def shape(self, config: Any) -> EncoderShape:
        return EncoderShape(
            num_layers=config.num_layers,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            ffn_matrices=3 if config.is_gated_act else 2,
            attention_size=config.num_heads * config.d_kv,
        )

    def rewrite(self, layer: nn.Module, arguments: Arguments, state: ForwardState) -> Arguments:
        given: Tensor = argument(layer, arguments, "position_bias")
        # every block hands its bias to the next; the first one seen here is still that of the whole text
        bias = state.once("position_bias", lambda: given)

        def gathered() -> Tensor:
            whole = bias.expand(len(state.positions), -1, -1, -1)
            return gather_pairs(whole, state.positions) if state.shortened else bias

        return replace(
            layer,
            arguments,
            attention_mask=self.mask(layer, arguments, state),
            position_bias=state.cached("position_bias", gathered),
        )
