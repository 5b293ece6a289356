"""Run encoded rows through a trained model, in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retention.data.batching import Batch, SortedBatches
from retention.data.loading import Collate
from retention.errors import require
from retention.models.encoded import Encoded
from retention.models.retention_model import RetentionModel


@dataclass(frozen=True)
class RowResult:
    """Result for one row.

    Attributes:
        output: what the model predicts for it.
        depth: for each of its tokens the number of gates that kept it.
        keep_ratio: kept tokens / tokens, mean over the gated layers.
    """

    output: Any
    depth: tuple[int, ...]
    keep_ratio: float


def keep_ratio(depth: Sequence[int], gates: int) -> float:
    """Compute kept tokens / tokens, mean over the gates, from the number of gates that kept each token.

    Returns:
        A ratio in (0, 1]; 1 without gates.
    """
    return sum(depth) / (gates * len(depth)) if gates else 1.0


def run_rows(
    model: RetentionModel,
    rows: Sequence[Mapping[str, Any]],
    collate: Collate,
    batch_size: int,
    read: Callable[[Tensor, Encoded, Batch], Sequence[Any]],
) -> list[RowResult]:
    """Run encoded rows with real token removal; the results are in the order of ``rows``.

    Args:
        model: in evaluation mode.
        rows: with ``input_ids``, ``length`` and what ``collate`` needs.
        collate: makes a batch of rows.
        batch_size: rows per forward pass, >= 1.
        read: logits, encoder output and batch -> prediction for each row.

    Raises:
        ConfigError: ``batch_size`` is not a whole number of at least 1.
    """
    valid = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1
    require(valid, "batch_size", f"must be a whole number >= 1, got {batch_size!r}")
    device = next(model.parameters()).device
    results: dict[int, RowResult] = {}
    layers = model.gated_layers
    for indices in SortedBatches([row["length"] for row in rows], batch_size) if rows else ():
        collated = collate([rows[index] for index in indices])
        batch = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in collated.items()}
        with torch.inference_mode():
            encoded = model.encode(batch)
            outputs = read(model.logits(encoded, batch), encoded, batch)
            depths = encoded.gates_passed(batch["input_ids"].shape[1]).tolist()
        for index, output, padded_depth in zip(indices, outputs, depths, strict=True):
            depth = tuple(padded_depth[: rows[index]["length"]])
            results[index] = RowResult(output, depth, keep_ratio(depth, len(layers)))
    return [results[index] for index in range(len(rows))]
