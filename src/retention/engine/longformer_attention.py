"""Longformer's attention, exact for any set of tokens: windows are measured in original positions.

Weights and result are those of the Hugging Face module; the computation is a masked product over all pairs where a
window covers most of what is left, and blocks of queries against the keys near them otherwise.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.engine.compaction import compact
from retention.engine.token_band import TokenBand


class BandAttention:
    """Takes the place of ``forward`` in a ``LongformerSelfAttention`` or ``LEDEncoderSelfAttention``.

    Every token sees the global tokens and those within the window; global tokens see everything, through projections
    of their own. Padding gives zeros, as it does there.

    Args:
        module: whose weights are used.
        untouched: lays out whole texts, shared by all layers.
    """

    def __init__(self, module: nn.Module, untouched: UntouchedBand) -> None:
        self.module = cast(Any, module)
        self.untouched = untouched

    def __call__(
        self, hidden_states: Tensor, attention_mask: Tensor | TokenBand, output_attentions: bool = False, **_: Any
    ) -> tuple[Tensor]:
        """States [B, N, D] -> [B, N, D], in a tuple.

        Args:
            hidden_states: [B, N, D].
            attention_mask: the tokens, or the library's mask [B, N]: < 0 = padding, 0 = local, > 0 = global.
            output_attentions: must be False.
            _: what the library derives from its mask.

        Raises:
            ValueError: attention weights are asked for; they are never made as a whole here.
        """
        if output_attentions:
            raise ValueError("attention weights cannot be returned while the engine computes the attention")
        band = attention_mask if isinstance(attention_mask, TokenBand) else self.untouched.band(attention_mask)
        output = self._local_rows(hidden_states, band)
        if band.num_global:
            output = self._with_global_rows(output, hidden_states, band)
        merged = output.transpose(1, 2).reshape(hidden_states.shape)
        return (merged.masked_fill(~band.valid.unsqueeze(-1), 0.0) if band.padded else merged,)

    def _local_rows(self, hidden_states: Tensor, band: TokenBand) -> Tensor:
        """What tokens with a window see, [B, H, N, d]; rows of global tokens are to be replaced."""
        module, window = self.module, int(self.module.one_sided_attn_window_size)
        query, key, value = (self._heads(part(hidden_states)) for part in (module.query, module.key, module.value))
        blocks = band.blocks(window)
        if blocks is None:
            return self._attend(query, key, value, band.dense_mask(window, query.dtype))
        shared = (band.global_rows(key), band.global_rows(value))
        parts = []
        for block in blocks:
            keys, values = (
                torch.cat([first, states[:, :, block.near : block.far]], 2)
                for first, states in zip(shared, (key, value), strict=True)
            )
            mask = band.block_mask(block, window, query.dtype)
            parts.append(self._attend(query[:, :, block.first : block.last], keys, values, mask))
        return torch.cat(parts, 2)

    def _with_global_rows(self, output: Tensor, hidden_states: Tensor, band: TokenBand) -> Tensor:
        rows = self._global_rows(hidden_states, band).to(output.dtype)
        if band.global_slots is not None:  # slots that a text does not need keep what they have
            rows = torch.where(band.global_slots[:, None, :, None], rows, band.global_rows(output))
        return output.scatter(2, band.global_indices[:, None, :, None].expand_as(rows), rows)

    def _global_rows(self, hidden_states: Tensor, band: TokenBand) -> Tensor:
        """What the global tokens see, [B, H, G, d]."""
        module = self.module
        query = self._heads(module.query_global(compact(hidden_states, band.global_indices)))
        if band.num_global * module.num_heads < hidden_states.shape[-1]:
            return self._folded(query, hidden_states, band)
        key, value = (self._heads(part(hidden_states)) for part in (module.key_global, module.value_global))
        return self._attend(query, key, value, band.key_bias(query.dtype))

    def _folded(self, query: Tensor, hidden_states: Tensor, band: TokenBand) -> Tensor:
        """The same for few global tokens, without projecting every token that they see.

        q (X W + b)' = (q W') X' + q b' and p (X W + b) = (p X) W + sum(p) b.

        Args:
            query: [B, H, G, d].
            hidden_states: X, [B, N, D].
            band: of the tokens.
        """
        module, states = self.module, hidden_states.unsqueeze(1)
        by_head = (module.num_heads, -1, hidden_states.shape[-1])
        key, value = module.key_global.weight.view(by_head), module.value_global.weight.view(by_head)
        # cancels in the softmax; so its gradient is 0, not missing
        constant = query @ module.key_global.bias.view(module.num_heads, -1, 1)
        scores = ((query @ key) @ states.transpose(-1, -2) + constant) * query.shape[-1] ** -0.5
        bias = band.key_bias(scores.dtype)
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = torch.softmax(scores if bias is None else scores + bias, dim=-1, dtype=wide).to(scores.dtype)
        weights = F.dropout(weights, module.dropout, module.training)
        rows: Tensor = (weights @ states) @ value.transpose(-1, -2)
        bias_rows: Tensor = module.value_global.bias.view(module.num_heads, 1, -1)
        return rows + weights.sum(-1, keepdim=True) * bias_rows

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.module.dropout if self.module.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout)

    def _heads(self, states: Tensor) -> Tensor:
        """[B, N, D] -> [B, H, N, d]."""
        batch, length, _ = states.shape
        return states.view(batch, length, self.module.num_heads, -1).transpose(1, 2)


class UntouchedBand:
    """Lays out whole texts, once for all layers of a forward pass."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, TokenBand] | None = None

    def band(self, mask: Tensor) -> TokenBand:
        """The band for the library's mask [B, N]: < 0 = padding, 0 = local, > 0 = global."""
        if self._last is None or self._last[0] is not mask:
            positions = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
            self._last = mask, TokenBand(positions, mask >= 0, mask > 0)
        return self._last[1]

    def __getstate__(self) -> dict[str, Any]:
        """Copies do not take over the tensors of the last forward pass."""
        return {"_last": None}


class NoPadding:
    """Takes the place of ``_pad_to_window_size``: every length will do here."""

    _TENSORS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")

    def __call__(self, **given: Any) -> tuple[Any, ...]:
        """The number of places added, 0, and the tensors as they are, in the library's order."""
        return (0, *(given[name] for name in self._TENSORS if name in given))
