"""Report which tokens one forward pass kept and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from retention.core.flops import EncoderShape, flops_by_layer, scorer_flops


@dataclass
class ForwardReport:
    """Token counts of one forward pass per gated layer, detached from the graph.

    Attributes:
        lengths: [B] long, real tokens per sample (no padding).
        kept: layer_idx -> [B] long, tokens kept by the gate of that layer; hard gates only.
        keep_mass: layer_idx -> [B] float, expected number of kept tokens, sum of keep probabilities; soft gates only.
        targets: layer_idx -> [B] float, budget of that gate in tokens.
        keep_indices: layer_idx -> [B, M] long, original positions kept, ascending, -1 in unused slots of samples that
            keep fewer tokens; hard gates only.
        global_tokens: [B] long, tokens that attend to all others beside the windows of local attention; None where the
            family has no such tokens.
    """

    lengths: Tensor
    kept: dict[int, Tensor] = field(default_factory=dict)
    keep_mass: dict[int, Tensor] = field(default_factory=dict)
    targets: dict[int, Tensor] = field(default_factory=dict)
    keep_indices: dict[int, Tensor] = field(default_factory=dict)
    global_tokens: Tensor | None = None

    def record_kept(self, layer_idx: int, valid: Tensor, positions: Tensor) -> None:
        """Record the tokens that a gate kept.

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
        """Compute the FLOPs of the batch without and with removal; see ``flops_by_layer``."""
        dense, spent = self.flops_by_layer(shape, scorer_macs, before_feed_forward=before_feed_forward)
        return sum(dense), sum(spent)

    def flops_by_layer(
        self, shape: EncoderShape, scorer_macs: dict[int, int], *, before_feed_forward: bool
    ) -> tuple[list[float], list[float]]:
        """Compute the FLOPs of the batch in every layer: with all tokens, and with the kept tokens and scorers.

        Args:
            shape: of the encoder.
            scorer_macs: layer_idx -> multiply-accumulates per token of that gate's scorer.
            before_feed_forward: see ``retention.core.flops.flops_by_layer``.
        """
        lengths, num_global = self.lengths, self.global_tokens
        dense = flops_by_layer(shape, lengths, {}, num_global)
        spent = flops_by_layer(shape, lengths, self.kept, num_global, before_feed_forward=before_feed_forward)
        scorers = scorer_flops(scorer_macs, lengths, self.kept, num_layers=shape.num_layers)
        return dense.sum(1).tolist(), (spent + scorers).sum(1).tolist()

    def depth(self, layers: tuple[int, ...], width: int) -> Tensor:
        """Count the gates that kept each token, [B, width] long; undefined on padding and with soft gates.

        A gated layer that is missing in the report removed nothing.

        Args:
            layers: the gated layers, ascending.
            width: T, length of the batch before any removal.
        """
        shape, device = (self.lengths.shape[0], width + 1), self.lengths.device
        present = torch.ones(shape, dtype=torch.bool, device=device)
        depth = torch.zeros(shape, dtype=torch.long, device=device)
        for layer in layers:
            if layer in self.keep_indices:
                present = _presence(self.keep_indices[layer], width)
            depth = depth + present
        return depth[:, :width]

    def survived(self, width: int) -> Tensor:
        """Return the tokens kept by every hard gate, [B, width] bool; padding counts as kept until a gate removes it.

        Args:
            width: T, length of the batch before any removal.
        """
        if not self.keep_indices:
            return torch.ones(self.lengths.shape[0], width, dtype=torch.bool, device=self.lengths.device)
        last = max(self.keep_indices)  # each gate keeps a subset of the gate before it
        return _presence(self.keep_indices[last], width)[:, :width]


def _presence(kept: Tensor, width: int) -> Tensor:
    """Mark the positions in ``kept`` [B, M]: [B, width + 1] bool; -1 (unused slot) marks the last column."""
    present = torch.zeros(kept.shape[0], width + 1, dtype=torch.bool, device=kept.device)
    columns = torch.where(kept < 0, width, kept)
    return present.scatter(1, columns, torch.ones_like(columns, dtype=torch.bool))
