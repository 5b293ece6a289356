"""Encoded rows through a trained model, in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from retention.data.batching import Batch, SortedBatches
from retention.data.loading import Collate
from retention.engine import ForwardReport
from retention.errors import ConfigError, Problem
from retention.trained.results import keep_ratio
from retention.training.module import RetentionModule


@dataclass(frozen=True)
class RowResult:
    """What came of one row.

    Attributes:
        said: what the model says of it.
        depth: for each of its tokens the number of gates that let it pass.
        keep_ratio: see ``Prediction``.
    """

    said: Any
    depth: tuple[int, ...]
    keep_ratio: float


def run_rows(
    module: RetentionModule,
    rows: Sequence[Mapping[str, Any]],
    collate: Collate,
    batch_size: int,
    read: Callable[[Tensor, Batch], Sequence[Any]],
) -> list[RowResult]:
    """Run encoded rows with real removal; the results come in the order of ``rows``.

    Args:
        module: in evaluation mode.
        rows: with ``input_ids``, ``length`` and what ``collate`` needs.
        collate: makes a batch of rows.
        batch_size: rows per forward pass, >= 1.
        read: logits and batch -> what is said of each row.

    Raises:
        ConfigError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ConfigError([Problem("batch_size", f"must be >= 1, got {batch_size}")])
    found: dict[int, RowResult] = {}
    layers = module.gated_layers
    for places in SortedBatches([row["length"] for row in rows], batch_size) if rows else ():
        made = collate([rows[place] for place in places])
        batch = {name: value.to(module.device) if isinstance(value, Tensor) else value for name, value in made.items()}
        with torch.inference_mode():
            said = read(module(batch), batch)
            report = cast(ForwardReport, module.last_report)
            depths = report.depth(layers, batch["input_ids"].shape[1]).tolist()
        for place, words, passed in zip(places, said, depths, strict=True):
            depth = tuple(passed[: rows[place]["length"]])
            found[place] = RowResult(words, depth, keep_ratio(depth, len(layers)))
    return [found[place] for place in range(len(rows))]
