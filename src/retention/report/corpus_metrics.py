"""Compute metrics of a whole test set that are no mean over its rows, such as macro-F1, also of resampled rows.

Each of them is a function of a sum over the rows: every row has a vector of counts. So the metric of a bootstrap sample
needs no more than the sum of the vectors, each as often as its row was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = Mapping[str, Any]  # of a file of predictions

THRESHOLDS = np.concatenate([np.arange(0.99, 0.0, -0.01), [0.001, 0.0]])  # of precision-recall curves


@dataclass(frozen=True)
class CorpusMetric:
    """A metric of a test set, in [0, 1].

    Attributes:
        keys: of a row of the file of predictions that the counts are made from.
        kinds: types of their values.
        counts: from the rows of several runs, to one array [rows, K] of each run.
        value: from sums of these vectors [..., K] to the metric [...].
    """

    keys: tuple[str, ...]
    kinds: tuple[type, ...]
    counts: Callable[[Sequence[Sequence[Row]]], list[Floats]]
    value: Callable[[Floats], Floats]


def precision_recall(counts: Floats) -> tuple[Floats, Floats]:
    """Compute a precision-recall curve from the highest threshold to the lowest, with (recall 0, precision 1) in front.

    Args:
        counts: of ``detection_counts``, or sums of them, [..., 2 N + 1].

    Returns:
        Recall and precision, both [..., N + 1]; precision is made monotonically decreasing in recall.
    """
    true, false, expected = np.split(counts, [len(THRESHOLDS), 2 * len(THRESHOLDS)], axis=-1)
    ones = np.ones((*true.shape[:-1], 1))
    recall = np.concatenate([0 * ones, true / np.maximum(expected, 1)], axis=-1)
    precision = np.concatenate([ones, true / np.maximum(true + false, 1)], axis=-1)
    return recall, np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]


def detection_counts(expected_scores: Sequence[float], false_scores: Sequence[float]) -> Floats:
    """Count at each threshold what is found, and what is found wrongly, followed by the number to be found.

    Args:
        expected_scores: for each thing to be found, the highest score of a prediction that matches it; -1 = none does.
        false_scores: scores of predictions that match nothing.

    Returns:
        [2 N + 1], for N thresholds.
    """
    counts = [
        (np.asarray(scores, dtype=np.float64)[None, :] > THRESHOLDS[:, None]).sum(1)
        for scores in (expected_scores, false_scores)
    ]
    return np.concatenate([*counts, [len(expected_scores)]]).astype(np.float64)


def average_precision(counts: Floats) -> Floats:
    """Compute the area under the precision-recall curve of sums of ``detection_counts``, [..., 2 N + 1] -> [...]."""
    recall, precision = precision_recall(counts)
    return np.asarray(np.trapezoid(precision, recall, axis=-1))


def _detections(tables: Sequence[Sequence[Row]]) -> list[Floats]:
    return [np.stack([detection_counts(row["clause_scores"], row["false_scores"]) for row in rows]) for rows in tables]


def _class_counts(tables: Sequence[Sequence[Row]]) -> list[Floats]:
    """Return true positives, false positives and false negatives of each class, [rows, 3 C]."""
    sets = [[(_classes(row["prediction"]), _classes(row["label"])) for row in rows] for rows in tables]
    classes = sorted(set().union(*(predicted | expected for rows in sets for predicted, expected in rows)))

    def counts(predicted: set[int], expected: set[int]) -> list[bool]:
        parts = (predicted & expected, predicted - expected, expected - predicted)
        return [each in part for part in parts for each in classes]

    return [np.array([counts(*pair) for pair in rows], dtype=np.float64) for rows in sets]


def _classes(value: int | Sequence[int]) -> set[int]:
    return {value} if isinstance(value, int) else set(value)


def _f1(counts: Floats) -> tuple[Floats, Floats]:
    """Return twice the true positives, and what F1 divides them by, each [..., C]."""
    true, false, missed = np.split(counts, 3, axis=-1)
    return 2 * true, 2 * true + false + missed


def _macro_f1(counts: Floats) -> Floats:
    """Average the F1 of the classes that occur as a label or a prediction."""
    twice_true, total = _f1(counts)
    occurs = total > 0
    mean: Floats = np.where(occurs, twice_true / np.maximum(total, 1), 0.0).sum(-1) / np.maximum(occurs.sum(-1), 1)
    return mean


def _micro_f1(counts: Floats) -> Floats:
    twice_true, total = (each.sum(-1) for each in _f1(counts))
    pooled: Floats = twice_true / np.maximum(total, 1)
    return pooled


CORPUS_METRICS: Mapping[str, CorpusMetric] = {
    "aupr": CorpusMetric(("clause_scores", "false_scores"), (list,), _detections, average_precision),
    "macro_f1": CorpusMetric(("prediction", "label"), (list, int), _class_counts, _macro_f1),
    "micro_f1": CorpusMetric(("prediction", "label"), (list, int), _class_counts, _micro_f1),
}
