"""Score the probabilities of a classifier: calibration error, log-likelihood, Brier score, and its weakest class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15
MIN_PROBABILITY = 1e-6  # probabilities are stored with six decimals, so smaller ones are 0


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Compute the expected calibration error, in [0, 1] (Guo et al. 2017, arXiv 1706.04599, eq. 3).

    Rows fall into ``bins`` equally wide bins ((m - 1) / bins, m / bins] by their confidence. With n rows, the error is
    sum_m |B_m| / n * |acc(B_m) - conf(B_m)|, where acc and conf are the accuracy and the mean confidence of a bin.

    Args:
        confidence: [n], probability of the predicted class, in [0, 1].
        correct: [n], 1 or True where the prediction is right.
        bins: number of bins, >= 1.

    Raises:
        ValueError: there are no rows, or the two lengths differ.
    """
    probability, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if probability.ndim != 1 or probability.shape != right.shape or not probability.size:
        raise ValueError(f"needs two vectors of equal length >= 1, got {probability.shape} and {right.shape}")
    index = np.clip(np.ceil(probability * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=right - probability, minlength=bins)  # |B_m| * (acc - conf)
    return float(np.abs(gaps).sum() / probability.size)


def class_scores(
    probabilities: Sequence[Sequence[float]], predictions: Sequence[int], labels: Sequence[int]
) -> dict[str, float]:
    """Score probabilities over classes, one class per row.

    Args:
        probabilities: [rows, C], each row sums to 1.
        predictions: [rows], predicted class, 0-based.
        labels: [rows], right class, 0-based.

    Returns:
        ``ece``, see ``expected_calibration_error``; ``nll``, the mean of -log p(label) in nats; and
        ``worst_class_recall``, the lowest accuracy over the rows of one class. Empty without rows.
    """
    if not labels:
        return {}
    table, rows = np.asarray(probabilities, dtype=np.float64), np.arange(len(labels))
    predicted, expected = np.asarray(predictions), np.asarray(labels)
    return {
        "ece": expected_calibration_error(table[rows, predicted], predicted == expected),
        "nll": float(-np.log(np.clip(table[rows, expected], MIN_PROBABILITY, 1.0)).mean()),
        "worst_class_recall": min(float((predicted[expected == c] == c).mean()) for c in np.unique(expected)),
    }


def label_set_scores(
    probabilities: Sequence[Sequence[float]], predictions: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Score independent probabilities of labels, a set of labels per row.

    Args:
        probabilities: [rows, C], in [0, 1].
        predictions: predicted labels of each row, 0-based.
        labels: right labels of each row, 0-based.

    Returns:
        ``brier_per_label``, the mean of (p - y)^2 over rows and labels; ``nll_per_label``, the mean binary
        cross-entropy in nats over rows and labels; and ``worst_class_recall``, the lowest share of the rows of one
        label that get it. Empty without rows.
    """
    if not labels:
        return {}
    table = np.asarray(probabilities, dtype=np.float64)
    expected, predicted = _indicators(labels, table.shape[1]), _indicators(predictions, table.shape[1])
    of_truth = np.clip(np.where(expected, table, 1.0 - table), MIN_PROBABILITY, 1.0)
    scores = {
        "brier_per_label": float(((table - expected) ** 2).mean()),
        "nll_per_label": float(-np.log(of_truth).mean()),
    }
    occurring = np.flatnonzero(expected.any(axis=0))
    if occurring.size:
        scores["worst_class_recall"] = min(float(predicted[expected[:, c], c].mean()) for c in occurring)
    return scores


def _indicators(sets: Sequence[Sequence[int]], classes: int) -> NDArray[Any]:
    """Return a table [rows, classes] of bool from sets of class indices."""
    table = np.zeros((len(sets), classes), dtype=bool)
    for row, members in enumerate(sets):
        table[row, list(members)] = True
    return table
