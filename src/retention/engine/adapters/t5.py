"""Adapt the encoder of T5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, Arguments, argument, replace
from retention.engine.adapters.mpnet import gather_pairs
from retention.engine.state import ForwardState


class T5Adapter(Adapter):
    """Adapter of T5's encoder: the position bias [1, H, T, T] of block 0 is gathered on both axes."""

    model_types: ClassVar[tuple[str, ...]] = ("t5",)
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer", "after_attention")

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        """Return the Transformer layers in the order in which they run."""
        stack: Any = getattr(encoder, "encoder", encoder)  # T5EncoderModel contains the stack, other models return it
        return cast(Sequence[nn.Module], stack.block)

    def attention_output(self, layer: nn.Module) -> nn.Module:
        """Return the module that outputs the states between attention and feed-forward."""
        return cast(nn.Module, cast(Any, layer).layer[0])

    def shape(self, config: Any) -> EncoderShape:
        """Return the dimensions that FLOPs depend on."""
        return EncoderShape(
            num_layers=config.num_layers,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            ffn_matrices=3 if config.is_gated_act else 2,
            attention_size=config.num_heads * config.d_kv,
        )

    def rewrite(self, layer: nn.Module, arguments: Arguments, state: ForwardState) -> Arguments:
        """Rewrite the arguments of a layer call for the current tokens."""
        passed: Tensor | None = argument(layer, arguments, "position_bias")

        def full_bias() -> Tensor:
            # Every block passes its bias to the next; the first one seen here belongs to the full sequence. Before
            # block 0, which computes the bias for the length of its input, there is none.
            if passed is not None:
                return passed
            compute: Any = cast(Any, layer).layer[0].SelfAttention.compute_bias
            return cast(Tensor, compute(state.width, state.width, device=state.positions.device))

        bias = state.cached_for_pass("position_bias", full_bias)

        def gather() -> Tensor:
            full = bias.expand(len(state.positions), -1, -1, -1)
            return gather_pairs(full, state.positions) if state.shortened else bias

        return replace(
            layer,
            arguments,
            attention_mask=self.mask(layer, arguments, state),
            position_bias=state.cached("position_bias", gather),
        )
