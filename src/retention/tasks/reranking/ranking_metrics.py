"""Measures of rankings: nDCG and average precision of one query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def ndcg(ranking: Sequence[str], relevance: Mapping[str, int], k: int = 10) -> float:
    """Compute the normalized discounted cumulative gain of a ranking at depth k.

    The gain of a document is its relevance and its discount log2(1 + rank), as in trec_eval, MTEB and scikit-learn
    (Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418). The ideal ranking holds all judged
    documents, also those that the ranking lacks.

    Args:
        ranking: different document ids, best first.
        relevance: document id -> relevance, >= 0; documents that are missing have 0.
        k: depth, >= 1.

    Returns:
        A value in [0, 1]; 0 if no document is relevant.
    """
    ideal = _discounted(sorted(relevance.values(), reverse=True)[:k])
    return _discounted([relevance.get(document, 0) for document in ranking[:k]]) / ideal if ideal > 0 else 0.0


def average_precision(ranking: Sequence[str], relevance: Mapping[str, int]) -> float:
    """Compute the mean over the relevant documents of the precision at their rank.

    Relevant documents that the ranking lacks count with a precision of 0, so that values of different candidate sets
    compare.

    Args:
        ranking: different document ids, best first.
        relevance: document id -> relevance; relevant above 0.

    Returns:
        A value in [0, 1]; 0 if no document is relevant.
    """
    total = sum(value > 0 for value in relevance.values())
    hits, precisions = 0, 0.0
    for rank, document in enumerate(ranking, start=1):
        if relevance.get(document, 0) > 0:
            hits += 1
            precisions += hits / rank
    return precisions / total if total else 0.0


def rank_documents(scores: Mapping[str, float]) -> list[str]:
    """Return the document ids in the order of their scores, highest first; equal scores in the order given."""
    return sorted(scores, key=scores.__getitem__, reverse=True)


def _discounted(gains: Iterable[int]) -> float:
    return float(sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains, start=1)))
