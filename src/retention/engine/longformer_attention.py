"""Compute Longformer's attention for any subset of tokens, with windows measured in original positions.

Weights and result are those of the Hugging Face module. The computation is a masked product over all pairs where a
window covers most of the remaining tokens, and a product of query blocks with nearby keys otherwise.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.engine.compaction import compact
from retention.engine.token_band import TokenBand


class BandAttention:
    """Replacement for ``forward`` of a ``LongformerSelfAttention`` or ``LEDEncoderSelfAttention``.

    Every token attends to the global tokens and to those within its window. Global tokens attend to all tokens, through
    separate projections. The output is zero on padding, as in the library.

    Args:
        module: the attention module whose weights are used.
        full_band: band of full sequences, shared by all layers.
    """

    def __init__(self, module: nn.Module, full_band: FullSequenceBand) -> None:
        self.module = cast(Any, module)
        self.full_band = full_band

    def __call__(
        self, hidden_states: Tensor, attention_mask: Tensor | TokenBand, output_attentions: bool = False, **_: Any
    ) -> tuple[Tensor]:
        """Compute attention [B, N, D] -> [B, N, D], in a tuple.

        Args:
            hidden_states: [B, N, D].
            attention_mask: the band, or the library's mask [B, N]: < 0 = padding, 0 = local, > 0 = global.
            output_attentions: must be False.
            _: masks that the library derives from ``attention_mask``; not used.

        Raises:
            ValueError: attention weights are requested, which this computation never forms as a whole.
        """
        if output_attentions:
            raise ValueError("attention weights cannot be returned while the engine computes the attention")
        band = attention_mask if isinstance(attention_mask, TokenBand) else self.full_band.band(attention_mask)
        output = self._local_rows(hidden_states, band)
        if band.num_global:
            output = self._with_global_rows(output, hidden_states, band)
        merged = output.transpose(1, 2).reshape(hidden_states.shape)
        return (merged.masked_fill(~band.valid.unsqueeze(-1), 0.0) if band.padded else merged,)

    def _local_rows(self, hidden_states: Tensor, band: TokenBand) -> Tensor:
        """Compute the output of local queries, [B, H, N, d]; the rows of global tokens are replaced afterwards."""
        module, window = self.module, int(self.module.one_sided_attn_window_size)
        query, key, value = (self._heads(part(hidden_states)) for part in (module.query, module.key, module.value))
        blocks = band.blocks(window)
        if blocks is None:
            return self._attend(query, key, value, band.dense_mask(window, query.dtype))
        global_rows = (band.global_rows(key), band.global_rows(value))
        parts = []
        for block in blocks:
            keys, values = (
                torch.cat([first, states[:, :, block.key_start : block.key_end]], 2)
                for first, states in zip(global_rows, (key, value), strict=True)
            )
            mask = band.block_mask(block, window, query.dtype)
            parts.append(self._attend(query[:, :, block.query_start : block.query_end], keys, values, mask))
        return torch.cat(parts, 2)

    def _with_global_rows(self, output: Tensor, hidden_states: Tensor, band: TokenBand) -> Tensor:
        rows = self._global_rows(hidden_states, band).to(output.dtype)
        if band.global_slots is not None:  # unused slots keep their local row
            rows = torch.where(band.global_slots[:, None, :, None], rows, band.global_rows(output))
        return output.scatter(2, band.global_indices[:, None, :, None].expand_as(rows), rows)

    def _global_rows(self, hidden_states: Tensor, band: TokenBand) -> Tensor:
        """Compute the output of global queries, [B, H, G, d]."""
        module = self.module
        query = self._heads(module.query_global(compact(hidden_states, band.global_indices)))
        # Layers of other types, such as quantized ones or those with an adapter, do more than apply ``weight``.
        plain = type(module.key_global) is nn.Linear and type(module.value_global) is nn.Linear
        if plain and band.num_global * module.num_heads < hidden_states.shape[-1]:
            return self._folded(query, hidden_states, band)
        key, value = (self._heads(part(hidden_states)) for part in (module.key_global, module.value_global))
        return self._attend(query, key, value, band.key_bias(query.dtype))

    def _folded(self, query: Tensor, hidden_states: Tensor, band: TokenBand) -> Tensor:
        """Compute ``_global_rows`` for few global tokens without projecting every key and value.

        q (X W + b)' = (q W') X' + q b' and p (X W + b) = (p X) W + sum(p) b.

        Args:
            query: [B, H, G, d].
            hidden_states: X, [B, N, D].
            band: of the tokens.
        """
        module, states = self.module, hidden_states.unsqueeze(1)
        by_head = (module.num_heads, -1, hidden_states.shape[-1])
        key, value = module.key_global.weight.view(by_head), module.value_global.weight.view(by_head)
        # Cancels in the softmax, but keeps the bias in the graph: its gradient is 0 instead of None.
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
        """Split the heads, [B, N, D] -> [B, H, N, d]."""
        batch, length, _ = states.shape
        return states.view(batch, length, self.module.num_heads, -1).transpose(1, 2)


class FullSequenceBand:
    """Cache of the band of full sequences, built once for all layers of a forward pass."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, TokenBand] | None = None

    def band(self, mask: Tensor) -> TokenBand:
        """Return the band for the library's mask [B, N]: < 0 = padding, 0 = local, > 0 = global."""
        last = self._last  # read once: another thread may replace it
        if last is None or last[0] is not mask:
            positions = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
            self._last = last = mask, TokenBand(positions, mask >= 0, mask > 0)
        return last[1]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the tensors of the last forward pass out of copies."""
        return {"_last": None}


class NoPadding:
    """Replacement for ``_pad_to_window_size``: the engine's attention works with every length."""

    _TENSORS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")

    def __call__(self, **inputs: Any) -> tuple[Any, ...]:
        """Return a padding length of 0 and the unchanged tensors, in the library's order."""
        return (0, *(inputs[name] for name in self._TENSORS if name in inputs))
