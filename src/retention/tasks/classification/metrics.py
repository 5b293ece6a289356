"""Metrics of classification: one class per row, or a set of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import evaluate

_CLASS = datasets.Value("int64")


class Accuracy(evaluate.Metric):
    """Share of rows whose predicted class is the label, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of rows whose predicted class is the label, in [0, 1].",
            citation="",
            inputs_description="predictions and references: class indices, equally many",
            features=datasets.Features({"predictions": _CLASS, "references": _CLASS}),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int], **_: Any) -> dict[str, float]:
        hits = sum(int(guess == truth) for guess, truth in zip(predictions, references, strict=True))
        return {"accuracy": hits / len(references)}


class MacroF1(evaluate.Metric):
    """Mean F1 of the classes that occur as a label or a prediction, each counting the same, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean F1 of the classes that occur, in [0, 1].",
            citation="",
            inputs_description="predictions and references: class indices, equally many",
            features=datasets.Features({"predictions": _CLASS, "references": _CLASS}),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int], **_: Any) -> dict[str, float]:
        counts = Counts(([guess] for guess in predictions), ([truth] for truth in references))
        return {"macro_f1": counts.macro_f1()}


class LabelSetF1(evaluate.Metric):
    """Micro- and macro-F1 of sets of classes, in [0, 1].

    ``micro_f1`` pools all (row, class) pairs; ``macro_f1`` is the mean F1 of the classes that occur as a label or a
    prediction.
    """

    def _info(self) -> evaluate.MetricInfo:
        classes = datasets.Sequence(_CLASS)
        return evaluate.MetricInfo(
            description="Micro- and macro-F1 of sets of classes, in [0, 1].",
            citation="",
            inputs_description="predictions and references: one list of class indices per row, equally many rows",
            features=datasets.Features({"predictions": classes, "references": classes}),
        )

    def _compute(
        self, predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]], **_: Any
    ) -> dict[str, float]:
        counts = Counts(predictions, references)
        return {"micro_f1": counts.micro_f1(), "macro_f1": counts.macro_f1()}


class Counts:
    """How often each class was right, predicted and meant.

    Args:
        predictions: classes per row; a class named twice in a row counts once.
        references: the same, equally many rows.
    """

    def __init__(self, predictions: Iterable[Iterable[int]], references: Iterable[Iterable[int]]) -> None:
        self.right: Counter[int] = Counter()
        self.named: Counter[int] = Counter()  # predictions + labels, the denominator of F1
        for guessed, meant in zip(predictions, references, strict=True):
            guesses, labels = set(guessed), set(meant)
            self.right.update(guesses & labels)
            self.named.update(guesses)
            self.named.update(labels)

    def micro_f1(self) -> float:
        """F1 of all (row, class) pairs; 0 where nothing was predicted or meant."""
        return 2 * self.right.total() / max(self.named.total(), 1)

    def macro_f1(self) -> float:
        """Mean F1 over the classes that occur; 0 without any."""
        values = [2 * self.right[label] / count for label, count in self.named.items()]
        return sum(values) / max(len(values), 1)
