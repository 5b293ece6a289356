"""Embed texts and count the tokens that the encoder keeps and the FLOPs that it spends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retention.engine import ForwardReport
from retention.pretrained import Embedder


@dataclass
class Costs:
    """Sums over forward passes.

    Attributes:
        flops: encoder FLOPs on real tokens, scorers included.
        kept: tokens kept, summed over the gated layers.
        offered: real tokens, counted once for each gated layer.
    """

    flops: float = 0.0
    kept: int = 0
    offered: int = 0

    @property
    def keep_ratio(self) -> float:
        """Return kept tokens / tokens, mean over the gated layers; 1 without gates."""
        return self.kept / self.offered if self.offered else 1.0


def embed(model: Embedder, texts: Sequence[str], rho: float | None, batch_size: int) -> tuple[Tensor, Costs]:
    """Embed texts; return the embeddings [N, D], float32 on the CPU, and what they cost.

    Args:
        model: embedding model.
        texts: N texts.
        rho: target keep ratio in (0, 1]; None = the model's own.
        batch_size: texts per forward pass.
    """
    costs = Costs()
    layers = model.encoder.gated_layers

    def add(report: ForwardReport) -> None:
        tokens = int(report.lengths.sum())
        costs.flops += model.encoder.flops()[1]
        costs.offered += tokens * len(layers)
        costs.kept += sum(int(report.kept[layer].sum()) if layer in report.kept else tokens for layer in layers)

    with torch.inference_mode():
        embeddings = model.encode(texts, rho=rho, batch_size=batch_size, on_report=add)
    return embeddings, costs
