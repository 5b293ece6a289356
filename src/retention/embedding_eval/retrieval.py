"""Retrieval by exact search: nDCG@10 of the documents that are nearest to each query."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from retention.embedding_eval.scores import Row, Scores, mean_difference, paired
from retention.errors import DataError
from retention.report.intervals import Estimate
from retention.tasks.reranking.collection import RetrievalCollection
from retention.tasks.reranking.ranking_metrics import ndcg

_DEPTH = 10


class Retrieval:
    """Documents (title and text) and queries of a collection; measure: mean nDCG@10 over queries, as in MTEB.

    All documents are compared with each query by the cosine, without an approximate index.

    Args:
        name: short name of the collection, first part of the metric's name.
        collection: documents, queries and relevance.
        source: description of the collection, for records.
        queries: positions (end-exclusive) of the queries to evaluate, in the order of the file; None = all.

    Raises:
        DataError: no query is left to evaluate.
    """

    def __init__(
        self, name: str, collection: RetrievalCollection, source: str, queries: tuple[int, int | None] | None = None
    ) -> None:
        self.name = name
        self._source = source
        self._collection = collection
        self._documents = list(collection.documents)
        self._queries = list(collection.queries)[slice(*(queries or (0, None)))]
        if not self._queries:
            raise DataError(
                f"{name}: none of the {len(collection.queries)} queries is left; change --validation-queries"
            )

    @property
    def documents(self) -> Sequence[str]:
        """Return the texts of the documents."""
        return list(self._collection.documents.values())

    @property
    def texts(self) -> Sequence[str]:
        """Return the texts of the documents, then the queries."""
        return [*self.documents, *(self._collection.queries[name] for name in self._queries)]

    def describe(self) -> dict[str, Any]:
        """Return source and numbers of documents and queries."""
        return {"source": self._source, "documents": len(self._documents), "queries": len(self._queries)}

    def evaluate(self, embeddings: Tensor) -> Scores:
        """Compute the mean nDCG@10 of the queries."""
        unit = F.normalize(embeddings.float(), dim=-1)
        documents, queries = unit[: len(self._documents)], unit[len(self._documents) :]
        nearest = (queries @ documents.T).topk(min(_DEPTH, len(documents)), dim=1).indices.tolist()
        rows: list[Row] = []
        for name, columns in zip(self._queries, nearest, strict=True):
            ranking = [self._documents[column] for column in columns]
            value = ndcg(ranking, self._collection.relevance[name], _DEPTH)
            rows.append({"id": name, "ndcg10": round(value, 6), "ranking": ranking})
        return Scores({f"{self.name}_ndcg10": sum(row["ndcg10"] for row in rows) / len(rows)}, rows)

    def differences(self, ours: Sequence[Row], reference: Sequence[Row]) -> dict[str, Estimate]:
        """Compute the mean difference of nDCG@10; the bootstrap resamples queries."""
        return {f"{self.name}_ndcg10": mean_difference(*paired(ours, reference, itemgetter("ndcg10")))}
