"""Compute the FLOPs of an encoder analytically, on real tokens; padding costs nothing here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BEFORE_FIRST_LAYER = -1  # index of the gate between the embeddings and layer 0


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """Dimensions of an encoder that its FLOPs depend on.

    Attributes:
        num_layers: L.
        hidden_size: D.
        intermediate_size: width F of the feed-forward layer.
        ffn_matrices: D x F matrices per feed-forward layer: 2, or 3 for a gated one.
        windows: per layer, how many keys one query sees on each side, None = all; empty = all layers see all.
        attention_size: width of queries, keys and values; None = D.
        position_macs: multiply-accumulates per token for scores against relative positions.
        global_heads: attention heads, in families whose global tokens attend to all others through their own
            projections; 0 = the family has no such tokens.
        embedding_macs: multiply-accumulates per token that project embeddings to width D before layer 0.
        batch_macs: multiply-accumulates of each layer that are spent once per batch, whatever its tokens.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    ffn_matrices: int = 2
    windows: tuple[int | None, ...] = ()
    attention_size: int | None = None
    position_macs: int = 0
    global_heads: int = 0
    embedding_macs: int = 0
    batch_macs: int = 0

    def window(self, layer_idx: int) -> int | None:
        """Return the number of keys seen on each side in this layer, None = all."""
        return self.windows[layer_idx] if self.windows else None


def layer_flops(
    shape: EncoderShape,
    layer_idx: int,
    tokens: Tensor,
    global_tokens: Tensor | None = None,
    *,
    ffn_tokens: Tensor | None = None,
    embedded_tokens: Tensor | None = None,
) -> Tensor:
    """Compute the FLOPs (2 per multiply-accumulate) of one layer for ``tokens`` real tokens per sample.

    Counts the four attention projections, the feed-forward matrices and both attention products. Softmax, norms and
    biases are left out, as in profilers of matrix products. Work that is done once per batch is divided among its
    samples, and the projection of the embeddings belongs to layer 0.

    A window counts as full where enough tokens are left to fill it. That is an upper bound once some of its tokens are
    removed, and less than an implementation spends that masks the product of all pairs. Kernels that skip padding or
    masked blocks spend what is counted here.

    Args:
        shape: encoder dimensions.
        layer_idx: 0-based.
        tokens: [B], real tokens that enter the layer.
        global_tokens: [B], how many of them attend to all tokens and are attended to by all; None = none.
        ffn_tokens: [B], how many of them reach the feed-forward part; None = all.
        embedded_tokens: [B], tokens whose embeddings are projected, in layer 0; None = ``tokens``.

    Returns:
        [B] float64.
    """
    n = tokens.double()
    ffn_tokens = n if ffn_tokens is None else ffn_tokens.double()
    attention = shape.hidden_size if shape.attention_size is None else shape.attention_size
    feed_forward = shape.ffn_matrices * shape.hidden_size * shape.intermediate_size
    num_global = torch.zeros_like(n) if global_tokens is None else global_tokens.double()
    window = shape.window(layer_idx)
    keys = n if window is None else torch.minimum(n, 2 * window + 1 + num_global)
    linear = n * (4 * shape.hidden_size * attention + shape.position_macs) + ffn_tokens * feed_forward
    embedded = n if embedded_tokens is None else embedded_tokens.double()
    linear = linear + shape.batch_macs / n.shape[-1] + (embedded * shape.embedding_macs if layer_idx == 0 else 0.0)
    total = 2.0 * linear + 4.0 * n * keys * attention
    return total + _global_flops(shape, n, num_global) if shape.global_heads else total


def _global_flops(shape: EncoderShape, tokens: Tensor, num_global: Tensor) -> Tensor:
    """Compute the FLOPs of the global tokens' own attention by the cheaper of the two ways in ``BandAttention``."""
    width = shape.hidden_size
    projected = 2.0 * (2 * tokens + num_global) * width**2 + 4.0 * tokens * num_global * width
    folded = 6.0 * num_global * width**2 + 4.0 * tokens * num_global * shape.global_heads * width
    return torch.where(num_global * shape.global_heads < width, folded, projected)


def flops_by_layer(
    shape: EncoderShape,
    lengths: Tensor,
    kept: dict[int, Tensor],
    global_tokens: Tensor | None = None,
    *,
    before_feed_forward: bool = False,
) -> Tensor:
    """Compute the FLOPs of every layer, [L, B] float64.

    Args:
        shape: encoder dimensions.
        lengths: [B], real tokens of the embeddings.
        kept: layer_idx -> [B], tokens that go on after the gate of that layer (-1: before layer 0); without entries for
            ungated layers.
        global_tokens: [B], see ``layer_flops``; they are never removed.
        before_feed_forward: gates sit between the attention and the feed-forward part of their layer.
    """
    tokens, flops = kept.get(BEFORE_FIRST_LAYER, lengths), []
    for layer_idx in range(shape.num_layers):
        left = kept.get(layer_idx, tokens)
        ffn_tokens = left if before_feed_forward else None
        flops.append(
            layer_flops(shape, layer_idx, tokens, global_tokens, ffn_tokens=ffn_tokens, embedded_tokens=lengths)
        )
        tokens = left
    widest = max((each.shape for each in flops), key=len)  # counts may have further leading dimensions
    return torch.stack([each.expand(widest) for each in flops])


def encoder_flops(
    shape: EncoderShape,
    lengths: Tensor,
    kept: dict[int, Tensor],
    global_tokens: Tensor | None = None,
    *,
    before_feed_forward: bool = False,
) -> Tensor:
    """Compute the FLOPs of the whole encoder, [B] float64; see ``flops_by_layer`` for the arguments."""
    return flops_by_layer(shape, lengths, kept, global_tokens, before_feed_forward=before_feed_forward).sum(0)


def scorer_flops(
    macs_per_token: dict[int, int], lengths: Tensor, kept: dict[int, Tensor], *, num_layers: int
) -> Tensor:
    """Compute the FLOPs of the scorers, [L, B] float64; a scorer sees the tokens that the gate before it kept.

    Layer 0 includes the scorer of the gate before it.

    Args:
        macs_per_token: layer_idx -> multiply-accumulates per token of that gate's scorer.
        lengths: [B], real tokens.
        kept: layer_idx -> [B], tokens that go on after that layer.
        num_layers: L.
    """

    def scored(layer_idx: int, tokens: Tensor) -> Tensor:
        return 2.0 * tokens.double() * macs_per_token.get(layer_idx, 0)

    tokens, flops = kept.get(BEFORE_FIRST_LAYER, lengths), []
    for layer_idx in range(num_layers):
        flops.append(scored(layer_idx, tokens))
        tokens = kept.get(layer_idx, tokens)
    flops[0] = flops[0] + scored(BEFORE_FIRST_LAYER, lengths)
    return torch.stack(flops)
