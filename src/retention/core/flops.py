"""Analytic FLOPs of an encoder on real tokens; padding costs nothing here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """The dimensions a FLOPs count needs.

    Attributes:
        num_layers: L.
        hidden_size: D.
        intermediate_size: width F of the feed-forward layer.
        ffn_matrices: D x F matrices per feed-forward layer, 2, or 3 where it is gated.
        windows: per layer, how many keys one query sees on each side, None = all.
        attention_size: width of queries, keys and values; None = D.
        position_macs: multiply-accumulates per token for scores against relative positions.
        global_heads: attention heads, where global tokens see all others through projections of their own; 0 = the
            family has no such tokens.
        embedding_macs: multiply-accumulates per token that bring embeddings to width D before layer 0.
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
        """Keys seen on each side in this layer, None = all."""
        return self.windows[layer_idx] if self.windows else None


def layer_flops(
    shape: EncoderShape,
    layer_idx: int,
    tokens: Tensor,
    global_tokens: Tensor | None = None,
    *,
    fed: Tensor | None = None,
) -> Tensor:
    """FLOPs (2 per multiply-accumulate) of one layer for ``tokens`` real tokens per sample.

    Counts the four attention projections, the feed-forward matrices, and both attention products; softmax, norms and
    biases are left out, as profilers of matrix products do. What is done once per batch is divided among its samples,
    and the projection of the embeddings is part of layer 0.

    A window counts as full where enough tokens are left to fill it, which is an upper bound once some of its tokens are
    gone, and less than an implementation spends that masks the product of all pairs. Kernels that skip padding or
    closed blocks spend what is counted here; one that does not spends more.

    Args:
        shape: encoder dimensions.
        layer_idx: 0-based.
        tokens: [B], real tokens entering the layer.
        global_tokens: [B], those of them that see all and are seen by all beside a window; None = none.
        fed: [B], those of them that reach its feed-forward part; None = all.

    Returns:
        [B] float64.
    """
    n = tokens.double()
    fed = n if fed is None else fed.double()
    attention = shape.hidden_size if shape.attention_size is None else shape.attention_size
    feed_forward = shape.ffn_matrices * shape.hidden_size * shape.intermediate_size
    shared = torch.zeros_like(n) if global_tokens is None else global_tokens.double()
    window = shape.window(layer_idx)
    keys = n if window is None else torch.minimum(n, 2 * window + 1 + shared)
    linear = n * (4 * shape.hidden_size * attention + shape.position_macs) + fed * feed_forward
    linear = linear + shape.batch_macs / n.shape[-1] + (n * shape.embedding_macs if layer_idx == 0 else 0.0)
    total = 2.0 * linear + 4.0 * n * keys * attention
    return total + _global_flops(shape, n, shared) if shape.global_heads else total


def _global_flops(shape: EncoderShape, tokens: Tensor, shared: Tensor) -> Tensor:
    """FLOPs of the rows of ``shared`` global tokens, whichever way they are computed; see ``BandAttention``."""
    width = shape.hidden_size
    projected = 2.0 * (2 * tokens + shared) * width**2 + 4.0 * tokens * shared * width
    folded = 6.0 * shared * width**2 + 4.0 * tokens * shared * shape.global_heads * width
    return torch.where(shared * shape.global_heads < width, folded, projected)


def flops_by_layer(
    shape: EncoderShape,
    lengths: Tensor,
    kept: dict[int, Tensor],
    global_tokens: Tensor | None = None,
    *,
    before_feed_forward: bool = False,
) -> Tensor:
    """FLOPs of every layer, [L, B] float64.

    Args:
        shape: encoder dimensions.
        lengths: [B], real tokens entering layer 0.
        kept: layer_idx -> [B], tokens that go on after the gate of that layer; layers without a gate are left out.
        global_tokens: [B], see ``layer_flops``; they are never removed.
        before_feed_forward: whether gates sit between the attention and the feed-forward part of their layer.
    """
    tokens, spent = lengths, []
    for layer_idx in range(shape.num_layers):
        left = kept.get(layer_idx, tokens)
        spent.append(layer_flops(shape, layer_idx, tokens, global_tokens, fed=left if before_feed_forward else None))
        tokens = left
    widest = max((each.shape for each in spent), key=len)  # counts may have further dimensions in front
    return torch.stack([each.expand(widest) for each in spent])


def encoder_flops(
    shape: EncoderShape,
    lengths: Tensor,
    kept: dict[int, Tensor],
    global_tokens: Tensor | None = None,
    *,
    before_feed_forward: bool = False,
) -> Tensor:
    """FLOPs of the whole encoder, [B] float64; arguments as of ``flops_by_layer``."""
    return flops_by_layer(shape, lengths, kept, global_tokens, before_feed_forward=before_feed_forward).sum(0)


def scorer_flops(
    macs_per_token: dict[int, int], lengths: Tensor, kept: dict[int, Tensor], *, num_layers: int
) -> Tensor:
    """FLOPs of the scorers, [L, B] float64; the scorer of a gate sees the tokens that the gate before it kept.

    Args:
        macs_per_token: layer_idx -> multiply-accumulates per token of that gate's scorer.
        lengths: [B], real tokens.
        kept: layer_idx -> [B], tokens that go on after that layer.
        num_layers: L.
    """
    tokens, spent = lengths, []
    for layer_idx in range(num_layers):
        spent.append(2.0 * tokens.double() * macs_per_token.get(layer_idx, 0))
        tokens = kept.get(layer_idx, tokens)
    return torch.stack(spent)
