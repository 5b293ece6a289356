"""Adapt DeBERTa-v2 and v3."""

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
from retention.errors import require


class DebertaAdapter(Adapter):
    """Adapter of DeBERTa-v2 and v3: relative positions are gathered on both axes; eager attention only.

    The attention accepts boolean masks only, so log gates are added to the scores of the relative positions.
    """

    model_types: ClassVar[tuple[str, ...]] = ("deberta-v2",)
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
        buckets = getattr(config, "position_buckets", -1)
        maximum = config.max_relative_positions
        kinds = len(config.pos_att_type or ())
        span = buckets if buckets > 0 else maximum if maximum > 0 else config.max_position_embeddings
        return EncoderShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            position_macs=2 * span * config.hidden_size * kinds,
            batch_macs=2 * span * config.hidden_size**2 * (2 if getattr(config, "share_att_key", False) else kinds),
        )

    def check(self, config: Any) -> None:
        """Check that removal equals masking for this configuration."""
        super().check(config)
        kernel = getattr(config, "conv_kernel_size", 0)
        message = (
            f"must be 0, got {kernel}: a convolution over neighboring tokens changes when some of them are removed; "
            "choose a checkpoint without one, such as microsoft/deberta-v3-base"
        )
        require(kernel == 0, "model.config.conv_kernel_size", message)
        message = "must be true: gates are added to the scores of the relative positions"
        require(config.relative_attention, "model.config.relative_attention", message)

    def attach(self, encoder: nn.Module) -> list[Handle]:
        """Replace the function that scores relative positions in every layer."""
        modules = (cast(Any, layer).attention.self for layer in self.layers(encoder))
        return [Replacement(module, "disentangled_attention_bias", GatedBias(module)) for module in modules]

    def rewrite(self, layer: nn.Module, arguments: Arguments, state: ForwardState) -> Arguments:
        """Rewrite the arguments of a layer call for the current tokens."""
        distances: Tensor = argument(layer, arguments, "relative_pos")
        heads = int(cast(Any, layer).attention.self.num_attention_heads)

        def gather() -> GatedRelativePositions:
            dtype = compute_dtype(argument(layer, arguments, "hidden_states"))
            gathered = gather_distances(distances, state.positions, heads)
            return GatedRelativePositions(gathered, state.gate_bias(dtype))

        return replace(
            layer,
            arguments,
            attention_mask=state.valid[:, None, None, :],
            relative_pos=state.cached("relative_pos", gather),
        )


@dataclass(frozen=True)
class GatedRelativePositions:
    """Relative positions and gates, passed to a layer as its ``relative_pos`` argument.

    Attributes:
        distances: relative positions in a shape that the attention accepts.
        gate_bias: [B, N] float, added to the attention logits of each key; None while every gate is exactly 1.
    """

    distances: Tensor
    gate_bias: Tensor | None


class GatedBias:
    """Replacement for ``disentangled_attention_bias`` that adds the log gate of each key.

    Args:
        module: attention module whose method is replaced.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(
        self,
        query_layer: Tensor,
        key_layer: Tensor,
        relative_pos: GatedRelativePositions | Tensor,
        rel_embeddings: Tensor,
        scale_factor: int,
    ) -> Tensor:
        """Compute the scores of the relative positions plus the log gates."""
        original: Callable[..., Tensor] = cast(Any, type(self.module)).disentangled_attention_bias
        distances = relative_pos.distances if isinstance(relative_pos, GatedRelativePositions) else relative_pos
        bias = original(self.module, query_layer, key_layer, distances, rel_embeddings, scale_factor)
        if not isinstance(relative_pos, GatedRelativePositions) or relative_pos.gate_bias is None:
            return bias
        heads = len(query_layer) // len(relative_pos.gate_bias)
        return bias + relative_pos.gate_bias.repeat_interleave(heads, dim=0)[:, None, :]


def gather_distances(distances: Tensor, positions: Tensor, heads: int) -> Tensor:
    """Gather relative positions [1, T, T] at positions [B, N]: [1, B * heads, N, N], as the attention expects."""
    batch, length = positions.shape
    pairs = gather_pairs(distances[:, None].expand(batch, -1, -1, -1), positions)
    return pairs.expand(-1, heads, -1, -1).reshape(1, batch * heads, length, length)
