"""Metrics of single-label classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate


class Accuracy(evaluate.Metric):
    """Share of rows whose predicted class is the label, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of rows whose predicted class is the label, in [0, 1].",
            citation="",
            inputs_description="predictions and references: class indices, equally many",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int], **_: Any) -> dict[str, float]:
        hits = sum(int(guess == truth) for guess, truth in zip(predictions, references, strict=True))
        return {"accuracy": hits / len(references)}
