"""Provide metrics that compare embeddings with those of the dense model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

Vectors = NDArray[np.float64]


def row_cosines(embeddings: Sequence[Sequence[float]], targets: Sequence[Sequence[float]]) -> Vectors:
    """Compute the cosine similarity of each embedding to its target, [N] in [-1, 1]."""
    products: Vectors = (_normalized(embeddings) * _normalized(targets)).sum(1)
    return products


def similarity_correlation(embeddings: Sequence[Sequence[float]], targets: Sequence[Sequence[float]]) -> float:
    """Compute Spearman's correlation of the cosine similarities of all pairs of rows with those of the targets.

    Returns:
        A value in [-1, 1]; NaN if there are fewer than 3 rows, or all similarities are the same.
    """
    if len(embeddings) < 3:
        return float("nan")
    pairs = np.triu_indices(len(embeddings), k=1)
    ours, theirs = ((vectors @ vectors.T)[pairs] for vectors in (_normalized(embeddings), _normalized(targets)))
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return float("nan")
    return float(spearmanr(ours.tolist(), theirs.tolist()).statistic)


def _normalized(vectors: Sequence[Sequence[float]]) -> Vectors:
    """Return vectors of length 1; zeros stay zeros."""
    array = np.asarray(vectors, dtype=np.float64)
    normalized: Vectors = array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
    return normalized
