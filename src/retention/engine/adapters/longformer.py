"""Longformer and the encoder of LED."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine.adapters.base import Adapter, Arguments, PositionTable, argument, compute_dtype, replace
from retention.engine.compaction import compact
from retention.engine.longformer_attention import BandAttention, NoPadding, UntouchedBand
from retention.engine.replacement import Handle, Replacement
from retention.engine.state import ForwardState
from retention.engine.token_band import TokenBand
from retention.errors import Checks


class LongformerAdapter(Adapter):
    """Longformer: windows in original positions, so the engine computes the attention, from the first layer on.

    Global tokens are those of the batch's ``global_mask`` [B, T], or the first of each text; they are never removed.
    """

    model_types: ClassVar[tuple[str, ...]] = ("longformer",)
    attention: ClassVar[tuple[str, ...]] = ("eager",)
    prune_points: ClassVar[tuple[str, ...]] = ("after_layer", "after_attention")
    computes_attention: ClassVar[bool] = True

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        return cast(Sequence[nn.Module], cast(Any, encoder).encoder.layer)

    def attention_output(self, layer: nn.Module) -> nn.Module:
        return cast(nn.Module, cast(Any, layer).attention)

    def shape(self, config: Any) -> EncoderShape:
        return EncoderShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            windows=windows(config),
            global_heads=config.num_attention_heads,
        )

    def position_table(self, config: Any) -> PositionTable | None:
        return PositionTable("embeddings.position_embeddings.weight", config.pad_token_id + 1)

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        mask = batch["attention_mask"]
        given = batch.get("global_mask")
        chosen = mask.cumsum(1).eq(1) & mask.bool() if given is None else given.bool() & mask.bool()
        return {**super().inputs(batch), "global_attention_mask": chosen.long()}

    def global_tokens(self, call: Mapping[str, Any]) -> Tensor | None:
        merged, chosen = call.get("attention_mask"), call.get("global_attention_mask")
        twos: Tensor | None = (
            None if merged is None else merged.eq(2)
        )  # the library also takes 2 = global in the attention mask
        if chosen is None:
            return twos
        asked: Tensor = chosen.bool()
        return asked if twos is None else asked | twos

    def attach(self, encoder: nn.Module) -> list[Handle]:
        untouched = UntouchedBand()
        found: list[Handle] = [Replacement(encoder, "_pad_to_window_size", NoPadding())]
        for module in map(self.attention_of, self.layers(encoder)):
            found.append(Replacement(module, "forward", BandAttention(module, untouched)))
        return found

    def attention_of(self, layer: nn.Module) -> nn.Module:
        """The part of a layer whose forward pass is the attention."""
        return cast(nn.Module, cast(Any, layer).attention.self)

    def rewrite(self, layer: nn.Module, arguments: Arguments, state: ForwardState) -> Arguments:
        is_global: Tensor = argument(layer, arguments, "is_index_global_attn")

        def made() -> TokenBand:
            return TokenBand(state.positions, state.valid, compact(is_global, state.positions), state.gate_bias)

        band = state.cached("band", made)
        # now, not inside the layer: where it is recomputed in the backward pass, it must find what it found before
        window = int(cast(Any, self.attention_of(layer)).one_sided_attn_window_size)
        band.prepare(window, compute_dtype(argument(layer, arguments, "hidden_states")))
        return replace(layer, arguments, attention_mask=band)


class LEDAdapter(LongformerAdapter):
    """The encoder of LED: Longformer's attention in BART's layers."""

    model_types: ClassVar[tuple[str, ...]] = ("led",)

    def layers(self, encoder: nn.Module) -> Sequence[nn.Module]:
        return cast(Sequence[nn.Module], cast(Any, encoder).layers)

    def attention_output(self, layer: nn.Module) -> nn.Module:
        return cast(nn.Module, cast(Any, layer).self_attn_layer_norm)

    def shape(self, config: Any) -> EncoderShape:
        return EncoderShape(
            num_layers=config.encoder_layers,
            hidden_size=config.d_model,
            intermediate_size=config.encoder_ffn_dim,
            windows=windows(config),
            global_heads=config.encoder_attention_heads,
        )

    def check(self, config: Any) -> None:
        checks = Checks()
        share = config.encoder_layerdrop
        message = f"must be 0, got {share}: a layer that is skipped in training would skip its gate, too"
        checks.require(share == 0, "backbone.fields.encoder_layerdrop", message)
        checks.finish()

    def position_table(self, config: Any) -> PositionTable | None:
        return PositionTable("embed_positions.weight", field="max_encoder_position_embeddings")

    def attention_of(self, layer: nn.Module) -> nn.Module:
        return cast(nn.Module, cast(Any, layer).self_attn.longformer_self_attn)


def windows(config: Any) -> tuple[int, ...]:
    """Positions seen on each side, per layer; the configuration counts both sides."""
    both = config.attention_window
    each = [both] * config.num_hidden_layers if isinstance(both, int) else both
    return tuple(window // 2 for window in each)
