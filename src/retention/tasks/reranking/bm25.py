"""Rank documents by BM25, which gives the candidates that a reranker reads.

Counted with scikit-learn's sparse matrices: it is a dependency anyway, and all queries are one matrix product, where
the package rank_bm25 loops over documents in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from retention.errors import DataError

# Parameters of BM25 in the baselines of BEIR (Thakur et al. 2021, arXiv 2104.08663) and in Anserini.
_K1, _B = 0.9, 0.4


class Bm25:
    """Index of documents (Robertson and Zaragoza 2009, https://doi.org/10.1561/1500000019).

    Words are runs of at least two letters or digits, in lower case, without stemming. The inverse document frequency is
    that of Lucene, log(1 + (N - n + 0.5) / (n + 0.5)), which is never negative.

    Args:
        documents: id -> text.

    Raises:
        DataError: no document has a word.
    """

    def __init__(self, documents: dict[str, str]) -> None:
        self.ids = list(documents)
        self._vectorizer = CountVectorizer()
        try:
            counts: Any = self._vectorizer.fit_transform(documents.values())
        except ValueError as error:
            raise DataError(f"the documents cannot be ranked by BM25 ({error}); check their texts") from error
        lengths = np.asarray(counts.sum(axis=1)).ravel()
        frequency = np.bincount(counts.indices, minlength=counts.shape[1])
        idf = np.log1p((len(self.ids) - frequency + 0.5) / (frequency + 0.5))
        weights = counts.astype(np.float64).tocoo()
        saturation = _K1 * (1 - _B + _B * lengths / max(lengths.mean(), 1.0))
        weights.data = idf[weights.col] * weights.data * (_K1 + 1) / (weights.data + saturation[weights.row])
        self._weights = weights.tocsr()

    def search(self, queries: Sequence[str], count: int) -> list[list[str]]:
        """Return the ids of the ``count`` best documents for each query, best first; ties in the order of the index."""
        scores = (self._vectorizer.transform(queries) @ self._weights.T).toarray()
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return [[self.ids[column] for column in row] for row in order]
