"""Data for rerankers: pairs of a query and a candidate passage, from collections in the layout of BEIR."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset

from retention.data.batching import Batch, EncodedRow, integer_column, pad_inputs
from retention.data.benchmark import BenchmarkData
from retention.data.loading import Collate
from retention.data.settings import require_count
from retention.data.splits import SPLITS, Split
from retention.errors import DataError, require
from retention.records.columns import as_columns, as_rows
from retention.tasks.question_answering.windows import question_template, tokenize_text, window_row
from retention.tasks.reranking.bm25 import Bm25
from retention.tasks.reranking.collection import RetrievalCollection, collection_files, read_collection
from retention.tasks.reranking.ranking_metrics import average_precision, ndcg, rank_documents

_FIXED_SEED = 20250  # test queries do not change with the run's seed


@dataclass(frozen=True)
class RerankingCollate:
    """Pad pairs.

    Adds ``labels`` [B] float, the target in [0, 1]; ``query`` [B, 2] long, index of the query in its split and of the
    passage among its candidates; ``index`` [B] long; and ``global_mask`` [B, T] bool, True on the tokens up to the
    passage, for encoders with global attention.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[EncodedRow]) -> Batch:
        """Build one batch."""
        batch = pad_inputs(rows, self.pad_token_id)
        batch["labels"] = torch.tensor([row["label"] for row in rows], dtype=torch.float32)
        batch["query"] = torch.tensor([row["query"] for row in rows], dtype=torch.long)
        batch["index"] = integer_column(rows, "index")
        starts = torch.tensor([row["context"][0] for row in rows], dtype=torch.long)
        batch["global_mask"] = torch.arange(batch["input_ids"].shape[1]) < starts.unsqueeze(1)
        return batch


class RerankingData(BenchmarkData):
    """Queries with candidate passages; a document of this data module is a query, a token row is one pair.

    Candidates are the best documents by BM25. In evaluation all of them are scored. For training, a query has every
    relevant document, and irrelevant candidates drawn by its id. Query and special tokens are protected: they are never
    removed. Splits are by query, so no test query is trained on.
    """

    encoding_batch: ClassVar[int] = 16

    def __init__(
        self,
        *,
        max_length: int,
        max_query_length: int = 64,
        candidates: int = 50,
        negatives: int = 4,
        test_queries: int | None = None,
        **settings: Any,
    ) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            max_length: tokens per pair, special tokens included; longer passages are truncated.
            max_query_length: tokens of a query; longer ones are truncated.
            candidates: passages per query that are reranked in evaluation, and that negatives are drawn from.
            negatives: irrelevant passages per relevant one in training.
            test_queries: number of queries that a collection with a single file of judgments (``qrels.tsv``) holds out
                for the split ``test``, the same for every seed, and ``splits.val`` must be None; None = the collection
                has ``qrels/<split>.tsv``.
            settings: see ``BenchmarkData``.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(max_length=max_length, **settings)
        for key, value in {"max_query_length": max_query_length, "candidates": candidates}.items():
            require_count(key, value)
        require_count("negatives", negatives, low=0)
        require_count("test_queries", test_queries, optional=True)
        message = f"must be at most half of max_length={max_length}, got {max_query_length}; lower it"
        require(max_query_length <= max_length // 2, "max_query_length", message)
        message = (
            f"must be null with test_queries, got {self.plan.names['val']!r}: a single file of judgments has no split "
            "for validation; set task.data.splits.val=null to hold val_size training queries out"
        )
        require(test_queries is None or self.plan.names["val"] is None, "splits.val", message)
        self.max_query_length = max_query_length
        self._candidates = candidates
        self._negatives = negatives
        self._test_queries = test_queries
        self.label_names = ("irrelevant", "relevant")

    def file_names(self, split: str) -> list[str]:
        """Return the names of files of the collection that hold the queries of a split."""
        return collection_files(split)

    def load(self, split: str) -> Dataset:
        """Load the queries of one split with their candidates and judgments."""
        collection = read_collection(self.source.dir, self.source.hub, split)
        names = self._queries(collection, split)
        ranked = Bm25(dict(collection.documents)).search([collection.queries[name] for name in names], self._candidates)
        highest = max(max(judged.values()) for judged in collection.relevance.values())
        rows = [
            _query_row(collection, name, candidates, self._negatives, highest)
            for name, candidates in zip(names, ranked, strict=True)
        ]
        return Dataset.from_dict(as_columns(rows))

    def read(self, splits: Sequence[Split]) -> dict[Split, Dataset]:
        """Read the queries of the requested splits; training queries have other passages than evaluated ones."""
        kept = ("text", "query_id", "judged", "highest")
        rows = super().read(splits)
        return {
            split: queries.select_columns([*kept, "training" if split == "train" else "candidates"]).rename_column(
                "training" if split == "train" else "candidates", "passages"
            )
            for split, queries in rows.items()
        }

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Return one token row per pair: [CLS] query [SEP] passage [SEP]."""
        rows = []
        for document, number in zip(as_rows(documents), indices, strict=True):
            template = question_template(self.tokenizer, document["text"], self.max_query_length)
            room = self.settings.max_length - len(template.prefix) - len(template.suffix)
            for position, passage in enumerate(document["passages"]):
                tokens = tokenize_text(self.tokenizer, passage["text"])
                row = window_row(template, tokens, (0, min(len(tokens.ids), room)))
                row["truncated"] = len(tokens.ids) > room
                row["label"] = passage["relevance"] / document["highest"]
                row["query"] = [number, position]
                rows.append(row)
        return as_columns(rows)

    def encoding_settings(self) -> tuple[object, ...]:
        """Return the length of queries."""
        return (self.max_query_length,)

    def collator(self) -> Collate:
        """Return a collator that pads with the tokenizer's padding token."""
        return RerankingCollate(int(self.tokenizer.pad_token_id))

    def head(self) -> dict[str, Any]:
        """Return the functions that turn scores into metrics and rankings, as arguments of the head."""
        return {"metrics_fn": self.compute_metrics, "format_fn": self.format_rankings}

    def compute_metrics(self, stage: Split, rows: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """Compute nDCG@10 and MAP over the queries, from the rankings of their candidates.

        Relevant documents that are not among the candidates count as missed, so values of different candidate sets
        compare.

        Args:
            stage: ``val`` or ``test``.
            rows: ``query`` (two indices, see the batch) and ``relevance_score`` of each pair.
        """
        scored = self.format_rankings(stage, rows)
        return {
            name: sum(row[key] for row in scored) / len(scored) for name, key in (("ndcg10", "score"), ("map", "ap"))
        }

    def format_rankings(self, stage: Split, rows: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Return the ranking of each query with its nDCG@10 (``score``) and average precision (``ap``)."""
        scores: dict[int, dict[int, float]] = {}
        for (query, position), value in zip(rows["query"], rows["relevance_score"], strict=True):
            scores.setdefault(query, {})[position] = value
        queries, result = self._documents[stage], []
        for number in sorted(scores):
            query = queries[number]
            ids = [passage["id"] for passage in query["passages"]]
            judged = {document["id"]: document["relevance"] for document in query["judged"]}
            by_document = {ids[position]: scores[number][position] for position in sorted(scores[number])}
            ranking = rank_documents(by_document)
            result.append(
                {
                    "index": number,
                    "query_id": query["query_id"],
                    "ranking": ranking,
                    "relevance_scores": [round(by_document[name], 6) for name in ranking],
                    "score": ndcg(ranking, judged),
                    "ap": average_precision(ranking, judged),
                }
            )
        return result

    def example(self, index: int) -> str:
        """Return query and passage of the test pair with this number."""
        rows = self._split("test").rows
        if not 0 <= index < len(rows):
            raise DataError(
                f"{self.name}: test pair {index} does not exist, there are {len(rows)} (0..{len(rows) - 1})"
            )
        number, position = rows[index]["query"]
        query = self._documents["test"][number]
        return f"{query['text']}\n\n{query['passages'][position]['text']}"

    def describe(self) -> dict[str, Any]:
        """Describe the rows, see ``RetentionData.describe``; ``train``, ``val`` and ``test`` count queries."""
        described: dict[str, Any] = super().describe()
        loaded = [role for role in SPLITS if role in self._splits]
        pairs = {role: described[role] if role in loaded else None for role in SPLITS}
        queries = {role: len({query for query, _ in self._split(role).rows["query"]}) for role in loaded}
        described.update({str(role): count for role, count in queries.items()})
        return {**described, "pairs": pairs, "candidates": self._candidates}

    def _queries(self, collection: RetrievalCollection, split: str) -> list[str]:
        """Return the ids of the queries of a split, in the order of the file."""
        names = list(collection.queries)
        if self._test_queries is None:
            message = (
                "one file of judgments holds the queries of all splits; set test_queries to hold some out for test"
            )
            require(not collection.single_file, "test_queries", message)
            return names
        message = "the collection has judgments for each split; set test_queries=null to use them"
        require(collection.single_file, "test_queries", message)
        message = f"must be below the number of queries with judgments ({len(names)}), got {self._test_queries}"
        require(self._test_queries < len(names), "test_queries", message)
        order = np.random.default_rng(_FIXED_SEED).permutation(len(names))
        held_out = {names[position] for position in order[: self._test_queries]}
        return [name for name in names if (name in held_out) == (split in self.plan.sources("test"))]


def _query_row(
    collection: RetrievalCollection, name: str, candidates: Sequence[str], negatives: int, highest: int
) -> dict[str, Any]:
    """Return a query with its judgments, its candidates, and the passages that it is trained on."""
    relevance = collection.relevance[name]
    present = [document for document in relevance if document in collection.documents]
    irrelevant = [document for document in candidates if document not in relevance]
    order = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(irrelevant))
    drawn = [irrelevant[position] for position in order[: negatives * max(len(present), 1)]]

    def passages(ids: Sequence[str]) -> list[dict[str, Any]]:
        return [{"id": each, "text": collection.documents[each], "relevance": relevance.get(each, 0)} for each in ids]

    return {
        "text": collection.queries[name],
        "query_id": name,
        "judged": [{"id": document, "relevance": value} for document, value in relevance.items()],
        "highest": highest,
        "candidates": passages(candidates),
        "training": passages([*present, *drawn]),
    }
