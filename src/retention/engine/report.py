"""What one forward pass kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from retention.core.flops import EncoderShape, flops_by_layer, scorer_flops


@dataclass
class ForwardReport:
    """Per-layer account of one forward pass, detached from the graph.

    Attributes:
        lengths: [B] long, real tokens per sample (no padding).
        kept: layer_idx -> [B] long, tokens that go on after the gate of that layer; hard gates only.
        keep_mass: layer_idx -> [B] float, expected number of kept tokens, sum of keep probabilities; soft gates only.
        targets: layer_idx -> [B] float, budget asked of that gate, in tokens.
        keep_indices: layer_idx -> [B, M] long, original positions kept, ascending, -1 in slots a ragged sample
            does not use; hard gates only.
        global_tokens: [B] long, tokens that see all and are seen by all beside the windows of the others; None where
            the family has no such tokens.
    """

    lengths: Tensor
    kept: dict[int, Tensor] = field(default_factory=dict)
    keep_mass: dict[int, Tensor] = field(default_factory=dict)
    targets: dict[int, Tensor] = field(default_factory=dict)
    keep_indices: dict[int, Tensor] = field(default_factory=dict)
    global_tokens: Tensor | None = None

    def record_kept(self, layer_idx: int, valid: Tensor, positions: Tensor) -> None:
        """Note the tokens that go on after a gate.

        Args:
            layer_idx: the gated layer.
            valid: [B, M] bool, True = real token.
            positions: [B, M] long, original positions.
        """
        self.kept[layer_idx] = valid.sum(1)
        self.keep_indices[layer_idx] = torch.where(valid, positions, -1)

    def flops(
        self, shape: EncoderShape, scorer_macs: dict[int, int], *, before_feed_forward: bool
    ) -> tuple[float, float]:
        """FLOPs of the batch: with every token, and on the kept tokens with the scorers; as ``flops_by_layer``."""
        dense, spent = self.flops_by_layer(shape, scorer_macs, before_feed_forward=before_feed_forward)
        return sum(dense), sum(spent)

    def flops_by_layer(
        self, shape: EncoderShape, scorer_macs: dict[int, int], *, before_feed_forward: bool
    ) -> tuple[list[float], list[float]]:
        """FLOPs of the batch in every layer: with every token, and on the kept tokens with the scorer after it.

        Args:
            shape: of the encoder.
            scorer_macs: layer_idx -> multiply-accumulates per token of that gate's scorer.
            before_feed_forward: see ``retention.core.flops.flops_by_layer``.
        """
        lengths, shared = self.lengths, self.global_tokens
        dense = flops_by_layer(shape, lengths, {}, shared)
        spent = flops_by_layer(shape, lengths, self.kept, shared, before_feed_forward=before_feed_forward)
        scorers = scorer_flops(scorer_macs, lengths, self.kept, num_layers=shape.num_layers)
        return dense.sum(1).tolist(), (spent + scorers).sum(1).tolist()

    def depth(self, layers: tuple[int, ...], width: int) -> Tensor:
        """Number of gated layers that each token passed, [B, width] long; of no meaning on padding or with soft gates.

        A gated layer that the report does not mention removed nothing.

        Args:
            layers: the gated layers, ascending.
            width: T, length of the batch before any removal.
        """
        shape, device = (len(self.lengths), width + 1), self.lengths.device
        alive, depth = (
            torch.ones(shape, dtype=torch.bool, device=device),
            torch.zeros(shape, dtype=torch.long, device=device),
        )
        for layer in layers:
            if layer in self.keep_indices:
                alive = _present(self.keep_indices[layer], width)
            depth = depth + alive
        return depth[:, :width]

    def survived(self, width: int) -> Tensor:
        """Tokens that every hard gate kept, [B, width] bool; padding counts as kept until a gate has acted.

        Args:
            width: T, length of the batch before any removal.
        """
        rows = len(self.lengths)
        if not self.keep_indices:
            return torch.ones(rows, width, dtype=torch.bool, device=self.lengths.device)
        last = max(self.keep_indices)  # gates come one after the other: the last keeps the fewest
        return _present(self.keep_indices[last], width)[:, :width]


def _present(kept: Tensor, width: int) -> Tensor:
    """Whether a place is among ``kept`` [B, M], -1 = unused: [B, width + 1] bool, the last column of no meaning."""
    alive = torch.zeros(len(kept), width + 1, dtype=torch.bool, device=kept.device)
    spare = torch.where(kept < 0, width, kept)  # unused slots go to the extra column
    return alive.scatter(1, spare, torch.ones_like(spare, dtype=torch.bool))
