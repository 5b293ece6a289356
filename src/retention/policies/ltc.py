"""Layer-wise token compression, LTC (Zhuang, Xu and Lauriola, SIGIR 2026, arXiv 2605.20683)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from retention.core.flops import EncoderShape
from retention.engine.gate import Decision, LayerView
from retention.policies.bases.retention_policy import RetentionPolicy


class LTC(RetentionPolicy):
    """Replace windows of neighboring tokens by their average at one middle layer; nothing is learned.

    The unprotected tokens of a sample are divided into as many windows of (nearly) equal length as the budget leaves
    room for. Each window continues as one token at the position of its first one, with the mean of its states.
    Protected tokens continue as they are. Training: none of its own; gradients pass through the averages. Needs no
    attention maps.

    Source: LTC (arXiv 2605.20683), for cross-encoders that rerank documents.

    Differs from the paper: windows share no tokens, where adaptive average pooling lets neighbors overlap by one if the
    lengths do not divide; special tokens are not pooled; a window may reach across a special token between two texts.
    With ``dropped=forward`` every token of a window returns with the final state of the window, for heads that read
    single tokens.

    Args:
        rho: target keep ratio after the layer, see ``RetentionPolicy``.
        schedule: see ``RetentionPolicy``; without effect with one gate.
        slope: see ``RetentionPolicy``; without effect with one gate.
        layers: see ``RetentionPolicy``; None = one gate after half of the layers.

    Raises:
        ConfigError: a setting is out of range.
    """

    supports_spans: ClassVar[bool] = False  # its windows do not follow the spans

    def __init__(
        self,
        *,
        rho: float,
        schedule: str | Sequence[float] = "linear",
        slope: float = 1.0,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(rho=rho, schedule=schedule, slope=slope, layers=layers)

    def resolve_layers(self, shape: EncoderShape, name: str) -> tuple[int, ...]:
        """Return the gated layers: those requested, or the last one of the first half."""
        if self.requested_layers is not None:
            return super().resolve_layers(shape, name)
        return (max(0, shape.num_layers // 2 - 1),)

    def score(self, view: LayerView) -> Tensor:
        """Return equal scores: tokens are pooled by their order."""
        return view.valid.float()

    def hard_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Pool the unprotected tokens into the windows that the budget leaves room for."""
        free = view.valid & ~view.protected
        targets, starts = pooling_windows(free, self.counts[gate] - view.protected.sum(1))
        states = view.hidden_states
        index = targets.unsqueeze(-1).expand_as(states)
        sums = torch.zeros_like(states).scatter_add(1, index, states * free.unsqueeze(-1).to(states.dtype))
        sizes = torch.zeros_like(scores).scatter_add(1, targets, free.to(scores.dtype)).clamp_min(1.0)
        means = torch.where(starts.unsqueeze(-1), sums / sizes.unsqueeze(-1).to(states.dtype), states)
        return Decision(keep_mask=starts | view.protected, hidden_states=means, merged_into=targets)


def pooling_windows(free: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Divide the free tokens of each sample into windows of neighbors, whose lengths differ by one at most.

    Args:
        free: [B, N] bool, tokens to be pooled.
        counts: [B] long, number of windows; clamped to between 0 and the number of free tokens.

    Returns:
        A pair: targets [B, N] long, index of the first token of each token's window, its own for tokens in none; and
        starts [B, N] bool, True = first token of a window.
    """
    total = free.sum(1, keepdim=True)
    counts = torch.minimum(counts.clamp_min(0).unsqueeze(1), total)
    rank = free.long().cumsum(1) - 1
    window = rank * counts // total.clamp_min(1)
    before = (rank - 1) * counts // total.clamp_min(1)  # -1 for the first free token
    starts = free & (window != before) & (counts > 0)
    columns = torch.arange(free.shape[1], device=free.device).expand_as(rank)
    first = torch.where(starts, columns, 0).cummax(1).values
    return torch.where(free & (counts > 0), first, columns), starts
