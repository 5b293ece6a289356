"""DeBERTa-v2 and v3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, Arguments, argument, compute_dtype, replace
from retention.engine.adapters.mpnet import gather_pairs
from retention.engine.replacement import Handle, Replacement
from retention.engine.state import ForwardState
from retention.errors import Checks


class DebertaAdapter(Adapter):
    """DeBERTa-v2/v3: relative positions are gathered on both axes; eager only.

    The attention takes a boolean mask alone, so log gates enter beside the scores of the relative positions.
    """

    model_types: ClassVar[tuple[str, ...]] = ("deberta-v2",)
    attention: ClassVar[tuple[str, ...]] = ("eager",)
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer", "after_attention")

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        return cast(Sequence[nn.Module], cast(Any, encoder).encoder.layer)

    def attention_output(self, layer: nn.Module) -> nn.Module:
        return cast(nn.Module, cast(Any, layer).attention)

    def shape(self, config: Any) -> EncoderShape:
        buckets = getattr(config, "position_buckets", -1)
        most = config.max_relative_positions
        kinds = len(config.pos_att_type or ())
        span = buckets if buckets > 0 else most if most > 0 else config.max_position_embeddings
        return EncoderShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            position_macs=2 * span * config.hidden_size * kinds,
            batch_macs=2 * span * config.hidden_size**2 * (2 if getattr(config, "share_att_key", False) else kinds),
        )

    def check(self, config: Any) -> None:
        checks = Checks()
        kernel = getattr(config, "conv_kernel_size", 0)
        message = (
            f"must be 0, got {kernel}: a convolution over neighbouring tokens cannot be the same once some of them are "
            "gone; choose a checkpoint without one, such as microsoft/deberta-v3-base"
        )
        checks.require(kernel == 0, "backbone.fields.conv_kernel_size", message)
        message = "must be true: without relative positions the attention has no place where gates could enter"
        checks.require(config.relative_attention, "backbone.fields.relative_attention", message)
        checks.finish()

    def attach(self, encoder: nn.Module) -> list[Handle]:
        found = (cast(Any, layer).attention.self for layer in self.layers(encoder))
        return [Replacement(module, "disentangled_attention_bias", GatedBias(module)) for module in found]

    def rewrite(self, layer: nn.Module, arguments: Arguments, state: ForwardState) -> Arguments:
        distances: Tensor = argument(layer, arguments, "relative_pos")
        heads = int(cast(Any, layer).attention.self.num_attention_heads)

        def gathered() -> Places:
            dtype = compute_dtype(argument(layer, arguments, "hidden_states"))
            return Places(gathered_distances(distances, state.positions, heads), state.gate_bias(dtype))

        return replace(
            layer,
            arguments,
            attention_mask=state.valid[:, None, None, :],
            relative_pos=state.cached("places", gathered),
        )


@dataclass(frozen=True)
class Places:
    """What takes the place of the relative positions in the call of a layer.

    Attributes:
        distances: relative positions in a form that the attention takes.
        gate_bias: [B, N] float <= 0, or None while every gate is exactly 1.
    """

    distances: Tensor
    gate_bias: Tensor | None


class GatedBias:
    """The scores of the relative positions, plus the log gate of each key."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(
        self, query_layer: Tensor, key_layer: Tensor, places: Places | Tensor, rel_embeddings: Tensor, scale_factor: int
    ) -> Tensor:
        own: Callable[..., Tensor] = cast(Any, type(self.module)).disentangled_attention_bias
        given = places.distances if isinstance(places, Places) else places
        bias = own(self.module, query_layer, key_layer, given, rel_embeddings, scale_factor)
        if not isinstance(places, Places) or places.gate_bias is None:
            return bias
        heads = len(query_layer) // len(places.gate_bias)
        return bias + places.gate_bias.repeat_interleave(heads, dim=0)[:, None, :]


def gathered_distances(distances: Tensor, positions: Tensor, heads: int) -> Tensor:
    """Relative positions [1, T, T] of the whole text, at [B, N]: [1, B * heads, N, N], the form the attention takes."""
    batch, length = positions.shape
    pairs = gather_pairs(distances[:, None].expand(batch, -1, -1, -1), positions)
    return pairs.expand(-1, heads, -1, -1).reshape(1, batch * heads, length, length)
