"""Metrics of classification, with one class per row or a set of classes; computed by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from retention.tasks.metric import TaskMetric

_CLASS = datasets.Value("int64")


class Accuracy(TaskMetric):
    """Share of rows whose predicted class is the label, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of rows whose predicted class is the label, in [0, 1].",
            citation="",
            inputs_description="predictions and references: class indices, equally many",
            features=datasets.Features({"predictions": _CLASS, "references": _CLASS}),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int], **_: Any) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(TaskMetric):
    """Unweighted mean of the F1 of the classes that occur as a label or a prediction, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean F1 of the classes that occur, in [0, 1].",
            citation="",
            inputs_description="predictions and references: class indices, equally many",
            features=datasets.Features({"predictions": _CLASS, "references": _CLASS}),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int], **_: Any) -> dict[str, float]:
        return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0.0))}


class LabelSetF1(TaskMetric):
    """Micro- and macro-F1 of sets of classes, in [0, 1].

    ``micro_f1`` pools all (row, class) pairs; ``macro_f1`` is the mean F1 of the classes that occur as a label or a
    prediction. Both are 0 where no class occurs.
    """

    def _info(self) -> evaluate.MetricInfo:
        classes = datasets.List(_CLASS)
        return evaluate.MetricInfo(
            description="Micro- and macro-F1 of sets of classes, in [0, 1].",
            citation="",
            inputs_description="predictions and references: one list of class indices per row, equally many rows",
            features=datasets.Features({"predictions": classes, "references": classes}),
        )

    def _compute(
        self, predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]], **_: Any
    ) -> dict[str, float]:
        indicators = MultiLabelBinarizer().fit_transform([*predictions, *references])  # [2 * rows, classes]
        predicted, expected = indicators[: len(predictions)], indicators[len(predictions) :]
        by_class = [_binary_f1(*columns) for columns in zip(expected.T, predicted.T, strict=True)]
        return {
            "micro_f1": _binary_f1(expected.ravel(), predicted.ravel()) if by_class else 0.0,
            "macro_f1": fmean(by_class) if by_class else 0.0,
        }


def _binary_f1(expected: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    return float(f1_score(expected, predicted, zero_division=0.0))
