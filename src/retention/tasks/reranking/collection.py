"""Read retrieval collections in the layout of BEIR: documents, queries and relevance judgments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retention.data.local_files import find_file, read_file
from retention.data.sources import load_hub
from retention.data.table import RawTable
from retention.errors import DataError

_DOCUMENT_COLUMNS = {"id": "_id", "title": "title", "text": "text"}
_QUERY_COLUMNS = {"id": "_id", "text": "text"}
_DOCUMENT_FILES = ("corpus.jsonl", "corpus.jsonl.gz")
_QUERY_FILES = ("queries.jsonl", "queries.jsonl.gz")
_JUDGMENT_COLUMNS = {"query": "query-id", "document": "corpus-id", "relevance": "score"}


@dataclass(frozen=True)
class RetrievalCollection:
    """Documents, queries and the relevance of documents for queries (Thakur et al. 2021, arXiv 2104.08663).

    Attributes:
        documents: id -> title and text; documents without either are left out.
        queries: id -> text of each query with a relevant document, in the order of the file.
        relevance: query id -> document id -> relevance, > 0.
        without_text: number of documents that were left out.
        single_file: True if one file holds the judgments of all splits.
    """

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    relevance: Mapping[str, Mapping[str, int]]
    without_text: int = 0
    single_file: bool = False


def read_collection(
    directory: str | Path | None, hub: Mapping[str, Any] | None = None, split: str = "test"
) -> RetrievalCollection:
    """Read a collection from a folder or, without one, from the hub.

    Args:
        directory: folder with ``corpus.jsonl`` and ``queries.jsonl`` (also ``.gz``), and ``qrels.tsv`` or
            ``qrels/<split>.tsv``.
        hub: ``{path, revision}`` of a hub data set in the layout of ``BeIR/scifact``, whose judgments are in the data
            set ``<path>-qrels``. The revision is that of the first; judgments are read as they are now.
        split: split of the judgments; a single ``qrels.tsv`` holds all of them.

    Raises:
        DataError: a file cannot be read, an id occurs twice, or a judgment names an unknown query or document.
    """
    tables = _read_folder(Path(directory).expanduser(), split) if directory is not None else _read_hub(hub, split)
    documents, queries, judgments = tables
    titles, bodies = documents.columns["title"], documents.columns["text"]
    joined = [" ".join(filter(None, map(_stripped, pair))) for pair in zip(titles, bodies, strict=True)]
    texts = _by_id(documents, joined)
    query_texts = _by_id(queries, queries.texts("text"))
    relevance = _relevance(judgments, texts, query_texts)
    return RetrievalCollection(
        documents={name: text for name, text in texts.items() if text},
        queries={name: text for name, text in query_texts.items() if name in relevance},
        relevance=relevance,
        without_text=sum(not text for text in texts.values()),
        single_file=judgments.source.endswith("qrels.tsv"),
    )


def collection_files(split: str) -> list[str]:
    """Return the names, relative to the folder of a collection, of the files that a split can be read from."""
    return [*_DOCUMENT_FILES, *_QUERY_FILES, *_judgment_files(split)]


def _judgment_files(split: str) -> tuple[str, str]:
    return "qrels.tsv", f"qrels/{split}.tsv"


def _read_folder(folder: Path, split: str) -> tuple[RawTable, RawTable, RawTable]:
    description = "corpus.jsonl, queries.jsonl and qrels.tsv or qrels/<split>.tsv"
    documents = find_file(folder, _DOCUMENT_FILES, description)
    queries = find_file(folder, _QUERY_FILES, description)
    judgments = find_file(folder, _judgment_files(split), description)
    return (
        read_file(documents, _DOCUMENT_COLUMNS),
        read_file(queries, _QUERY_COLUMNS),
        read_file(judgments, _JUDGMENT_COLUMNS),
    )


def _read_hub(hub: Mapping[str, Any] | None, split: str) -> tuple[RawTable, RawTable, RawTable]:
    if hub is None:
        raise DataError("no data: pass a folder in the layout of BEIR, or a data set of the hub")
    parts = (
        ({**hub, "name": "corpus"}, "corpus", _DOCUMENT_COLUMNS),
        ({**hub, "name": "queries"}, "queries", _QUERY_COLUMNS),
        ({"path": f"{hub['path']}-qrels"}, split, _JUDGMENT_COLUMNS),
    )
    documents, queries, judgments = (_hub_table(*part) for part in parts)
    return documents, queries, judgments


def _hub_table(hub: Mapping[str, Any], split: str, columns: dict[str, str]) -> RawTable:
    name, rows = load_hub(hub, split, columns)
    return RawTable(name, "row", range(1, len(rows) + 1), {column: rows[column][:] for column in columns.values()})


def _stripped(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _by_id(table: RawTable, texts: list[str]) -> dict[str, str]:
    by_id: dict[str, str] = {}
    for entry, (name, text) in enumerate(zip(table.columns["_id"], texts, strict=True)):
        if name is None or str(name) in by_id:
            problem = "has no '_id'" if name is None else f"repeats '_id' {name!r}"
            raise DataError(f"{table.location(entry)}: {problem}; give every line an id of its own")
        by_id[str(name)] = text
    return by_id


def _relevance(table: RawTable, documents: Mapping[str, str], queries: Mapping[str, str]) -> dict[str, dict[str, int]]:
    relevance: dict[str, dict[str, int]] = {}
    columns = (table.columns[column] for column in _JUDGMENT_COLUMNS.values())
    for entry, (query, document, score) in enumerate(zip(*columns, strict=True)):
        for name, existing, kind in ((query, queries, "query"), (document, documents, "document")):
            if str(name) not in existing:
                raise DataError(f"{table.location(entry)}: {kind} {name!r} does not exist; remove the line or add it")
        try:
            value = int(score)
        except (TypeError, ValueError):
            message = f"score must be a whole number, got {score!r}; fix the line"
            raise DataError(f"{table.location(entry)}: {message}") from None
        if value > 0:
            relevance.setdefault(str(query), {})[str(document)] = value
    if not relevance:
        raise DataError(f"{table.source}: no document is relevant for a query; check the column 'score'")
    return relevance
