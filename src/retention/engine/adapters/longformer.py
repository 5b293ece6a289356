"""Adapt Longformer and the encoder of LED."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, Arguments, PositionTable, argument, compute_dtype, replace
from retention.engine.compaction import compact
from retention.engine.longformer_attention import BandAttention, FullSequenceBand, NoPadding
from retention.engine.replacement import Handle, Replacement
from retention.engine.state import ForwardState
from retention.engine.token_band import TokenBand
from retention.errors import require


class LongformerAdapter(Adapter):
    """Adapter of Longformer: windows are measured in original positions, so the engine computes the attention.

    Global tokens are those of the batch's ``global_mask`` [B, T], or the first of each sequence; they are never
    removed.
    """

    model_types: ClassVar[tuple[str, ...]] = ("longformer",)
    attention: ClassVar[tuple[str, ...]] = ("eager",)
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer", "after_attention")
    computes_attention: ClassVar[bool] = True

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
            windows=windows(config),
            global_heads=config.num_attention_heads,
        )

    def position_table(self, config: Any) -> PositionTable | None:
        """Return the table of learned absolute positions."""
        return PositionTable("embeddings.position_embeddings.weight", config.pad_token_id + 1)

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the arguments of the forward pass, with global tokens from ``global_mask`` or the first token."""
        mask = batch["attention_mask"]
        global_mask = batch.get("global_mask")
        is_global = mask.cumsum(1).eq(1) & mask.bool() if global_mask is None else global_mask.bool() & mask.bool()
        return {**super().inputs(batch), "global_attention_mask": is_global.long()}

    def global_tokens(self, call: Mapping[str, Any]) -> Tensor | None:
        """Return the global tokens [B, T] bool, from either of the two arguments that can name them."""
        attention_mask, global_mask = call.get("attention_mask"), call.get("global_attention_mask")
        # The library also accepts 2 = global in the attention mask.
        merged: Tensor | None = None if attention_mask is None else attention_mask.eq(2)
        if global_mask is None:
            return merged
        is_global: Tensor = global_mask.bool()
        return is_global if merged is None else is_global | merged

    def attach(self, encoder: nn.Module) -> list[Handle]:
        """Replace the attention of the encoder."""
        full_band = FullSequenceBand()
        handles: list[Handle] = [Replacement(encoder, "_pad_to_window_size", NoPadding())]
        for module in map(self.attention_of, self.layers(encoder)):
            handles.append(Replacement(module, "forward", BandAttention(module, full_band)))
        return handles

    def attention_of(self, layer: nn.Module) -> nn.Module:
        """Return the module of a layer whose forward pass is the attention."""
        return cast(nn.Module, cast(Any, layer).attention.self)

    def rewrite(self, layer: nn.Module, arguments: Arguments, state: ForwardState) -> Arguments:
        """Rewrite the arguments of a layer call for the current tokens."""
        is_global: Tensor = argument(layer, arguments, "is_index_global_attn")

        def build() -> TokenBand:
            # A graph that holds the band must not hold the state, which goes on to hold later parts of that graph.
            present = state.copy()
            return TokenBand(state.positions, state.valid, compact(is_global, state.positions), present.gate_bias)

        band = state.cached("band", build)
        # Prepared here and not inside the layer: a layer that is recomputed in the backward pass must use the same
        # band.
        window = int(cast(Any, self.attention_of(layer)).one_sided_attn_window_size)
        band.prepare(window, compute_dtype(argument(layer, arguments, "hidden_states")))
        return replace(layer, arguments, attention_mask=band)


class LEDAdapter(LongformerAdapter):
    """Adapter of LED's encoder: Longformer's attention in BART's layers."""

    model_types: ClassVar[tuple[str, ...]] = ("led",)

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        """Return the Transformer layers in the order in which they run."""
        return cast(Sequence[nn.Module], cast(Any, encoder).layers)

    def attention_output(self, layer: nn.Module) -> nn.Module:
        """Return the module that outputs the states between attention and feed-forward."""
        return cast(nn.Module, cast(Any, layer).self_attn_layer_norm)

    def shape(self, config: Any) -> EncoderShape:
        """Return the dimensions that FLOPs depend on."""
        return EncoderShape(
            num_layers=config.encoder_layers,
            hidden_size=config.d_model,
            intermediate_size=config.encoder_ffn_dim,
            windows=windows(config),
            global_heads=config.encoder_attention_heads,
        )

    def check(self, config: Any) -> None:
        """Check that removal equals masking for this configuration."""
        super().check(config)
        rate = config.encoder_layerdrop
        message = f"must be 0, got {rate}: a layer that is skipped in training would skip its gate as well"
        require(rate == 0, "model.config.encoder_layerdrop", message)

    def position_table(self, config: Any) -> PositionTable | None:
        """Return the table of learned absolute positions."""
        return PositionTable("embed_positions.weight", field="max_encoder_position_embeddings")

    def attention_of(self, layer: nn.Module) -> nn.Module:
        """Return the module of a layer whose forward pass is the attention."""
        return cast(nn.Module, cast(Any, layer).self_attn.longformer_self_attn)


def windows(config: Any) -> tuple[int, ...]:
    """Return the window on each side per layer, in positions; the configuration counts both sides."""
    total = config.attention_window
    by_layer = [total] * config.num_hidden_layers if isinstance(total, int) else total
    return tuple(window // 2 for window in by_layer)
